"""/metrics of a running daemon, on its socket and on loopback, and the alerts made of it."""

import json
import re
from importlib import resources
from typing import Any

import aiohttp
import anyio
import pytest
import yaml

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import http_server, refused
from tests.support.processes import free_port
from tests.support.readers import promtool

ALERTS = resources.files("castrayd") / "data" / "alerts.yaml"


async def _scrape(daemon: Daemon) -> str:
    connector = aiohttp.UnixConnector(str(daemon.socket))
    async with (
        aiohttp.ClientSession("http://castrayd", connector=connector) as web,
        web.get("/metrics") as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await response.text()


def _value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found is not None, series
    return float(found[1])


async def test_daemon_counts_what_happens() -> None:
    """Numbers are those of status and history; times are wall time, for Prometheus subtracts."""
    async with refused() as address, running_daemon(address=address) as daemon:
        await daemon.wait_status("tries", lambda s: s["attempt"] and s["attempt"]["number"] > 2)
        await daemon.post("/api/pause")
        await daemon.post("/api/reload")
        tried = (await daemon.get("/api/attempts"))["attempts"]
        text = await _scrape(daemon)

        failed = [one for one in tried if one["outcome"] == "failure"]
        series = 'castray_connection_attempts_total{error_type="tcp_refused",outcome="failure"}'
        assert _value(text, series) == len(failed)
        assert _value(text, 'castray_connection_state{state="disconnected"}') == 1
        assert _value(text, "castray_paused") == 1
        assert _value(text, 'castray_config_reloads_total{outcome="success"}') == 1
        assert address not in text


async def test_fault_of_an_operator_is_a_warning_that_stands() -> None:
    """What the alert for people is made of."""
    async with http_server() as address, running_daemon(address=address) as daemon:
        await daemon.wait_status("not_ray", lambda s: s["warnings"])
        text = await _scrape(daemon)
        assert _value(text, 'castray_warnings{code="needs_operator",severity="error"}') == 1
        assert _value(text, "castray_next_retry_timestamp_seconds") > 1e9
        (first,) = (await daemon.status())["warnings"]
        await daemon.post("/api/reconnect")
        await daemon.wait_status("another try", lambda s: s["attempt"]["number"] > 1)
        (again,) = (await daemon.status())["warnings"]
        assert again["since"][:-5] == first["since"][:-5]  # one need, however many attempts


@pytest.mark.ray
async def test_attachment_shows_in_gauges(head: Any) -> None:
    """Nodes, contact and connection; when that was last is known after a restart too."""
    async with running_daemon(address=head.address) as daemon:
        await daemon.wait_state("connected")
        await anyio.sleep(2.5)
        text = await _scrape(daemon)
        assert _value(text, "castray_connected") == 1
        assert _value(text, 'castray_cluster_nodes{state="alive"}') == 1
        last = _value(text, "castray_last_connected_timestamp_seconds")
        assert 0 <= last - _value(text, "castray_last_contact_timestamp_seconds") < 3

        await daemon.post("/api/pause")
        await daemon.wait_state("disconnected")
        last = _value(await _scrape(daemon), "castray_last_connected_timestamp_seconds")
        await daemon.stop()
        daemon.launch()
        await daemon.answers()
        text = await _scrape(daemon)
        assert _value(text, "castray_connected") == 0
        assert abs(_value(text, "castray_last_connected_timestamp_seconds") - last) < 0.1


async def test_loopback_listener_serves_metrics_and_health_alone() -> None:
    """Whoever is on this host may look; nothing can be changed, and status is not told."""
    port = free_port()
    config = f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    async with refused() as address, running_daemon(address=address, config=config) as daemon:
        seen = {}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as web:
            for method, path in (
                ("GET", "/metrics"), ("GET", "/api/health/live"), ("GET", "/api/health/ready"),
                ("GET", "/api/status"), ("POST", "/api/pause"), ("POST", "/metrics"),
            ):  # fmt: skip
                async with web.request(method, path) as response:
                    seen[method, path] = response.status
                    if response.status >= 400 and response.status != 503:
                        assert "type" in json.loads(await response.text())["error"]
        assert list(seen.values()) == [200, 200, 503, 404, 404, 405]
        assert (await daemon.status())["desired"] == "up"


@pytest.mark.parametrize("listen", ["0.0.0.0:9469", "localhost", "127.0.0.1:x", "10.0.0.1:1"])
async def test_listener_that_others_could_reach_is_refused(listen: str) -> None:
    """Exit 78, by the name of the setting."""
    config = f'[metrics]\nlisten = "{listen}"\n'
    async with running_daemon(config=config, launch=False) as daemon:
        daemon.launch()
        assert await daemon.exit_code() == 78
        assert "metrics.listen" in daemon.log_text()


@pytest.mark.lab
async def test_promtool_finds_nothing_to_complain_of() -> None:
    """Names, help, types and labels as Prometheus wants them."""
    async with refused() as address, running_daemon(address=address) as daemon:
        promtool("check", "metrics", text=await _scrape(daemon))


async def test_alerts_speak_of_series_that_there_are() -> None:
    """Each metric and each label of each expression is in what a daemon exposes."""
    async with refused() as address, running_daemon(address=address) as daemon:
        text = await _scrape(daemon)
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    for rule in rules:
        for name, labels in re.findall(r"\b(castray_[a-z_]+)(?:\{([^}]*)\})?", rule["expr"]):
            wanted = re.findall(r'(\w+)="([^"]*)"', labels)
            lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
            for key, value in wanted:
                lines = [line for line in lines if f'{key}="{value}"' in line]
            assert lines, (rule["alert"], name, wanted)
