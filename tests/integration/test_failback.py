"""Candidates that go and come back: failover, failback, the local stand-in, reloads."""

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from castrayd.supervisor.cues import LOOK_S
from tests.support.casting import ready
from tests.support.daemon import Daemon, running_daemon
from tests.support.files import MIB, made
from tests.support.hosts import launch_with_hosts, write_hosts
from tests.support.peers import http_server, refused
from tests.support.ray import RayHead, ray_head

QUICK = """
[failback]
good_s = 3
[casting]
settle_s = 0.5
[backoff]
initial_s = 0.5
gap_s = 0.2
"""


def _reasons(status: Any) -> list[str]:
    return [reason["type"] for reason in status["reasons"]]


def _id(head: RayHead) -> str:
    raylet = head.raylet
    assert raylet is not None
    return raylet.cluster_id


async def _one_session_at_most(daemon: Daemon) -> None:
    """Watch the processes for ever: one is attached, a second one only stands by."""
    while True:
        assert len(daemon.joined()) <= 1, daemon.children()
        assert len(daemon.sessions()) <= 2, daemon.children()
        await anyio.sleep(0.05)


@pytest.mark.ray
async def test_second_cluster_is_taken_and_the_first_comes_back(head: RayHead) -> None:
    """The first is killed: the second within one attempt; the first is back: after the hold."""
    with ray_head() as first:
        hold = QUICK.replace("good_s = 3", "good_s = 8").replace("settle_s = 0.5", "settle_s = 10")
        config = f'[ray]\naddress = ["{first.address}", "{head.address}"]\n' + hold
        async with running_daemon(config=config) as daemon, anyio.create_task_group() as tasks:
            tasks.start_soon(_one_session_at_most, daemon)
            home = await daemon.wait_state("connected")
            assert home["cluster"]["id"] == _id(first)
            assert daemon.joined() == [home["session"]["pid"]]
            first.kill()
            other = await daemon.wait_status(
                "another cluster", lambda s: _reasons(s) == ["other_cluster"], 15
            )
            assert other["cluster"]["id"] == _id(head)
            assert (other["state"], other["attempt"]["trigger"]) == ("degraded", "session_lost")
            tried = [c["error"] and c["error"]["type"] for c in other["attempt"]["candidates"]]
            assert tried == ["tcp_refused", None]

            await anyio.to_thread.run_sync(first.start)
            good_s = anyio.current_time()
            back = await daemon.wait_status(
                "the first again",
                lambda s: s["state"] == "connected" and s["cluster"]["id"] == _id(first),
                30,
            )
            assert back["attempt"]["trigger"] == "failback"
            assert anyio.current_time() - good_s > 8 - 2.5  # it was good a little sooner
            assert back["reasons"] == []
            states = await daemon.states()
            never_connected_there = ["discovering", "degraded"]
            end = [*never_connected_there, "disconnected", "discovering", "connected"]
            assert states[-5:] == end
            tasks.cancel_scope.cancel()


@pytest.mark.ray
async def test_move_elsewhere_waits_for_a_transfer(head: RayHead, tmp_path: Path) -> None:
    """The first comes back in the middle of one: it is named and not cut; with it over, moved."""
    with ray_head(start=False) as first:
        quick = QUICK.replace("[casting]", f'[casting]\ndata_dir = "{tmp_path}"')
        config = f'[ray]\naddress = ["{first.address}", "{head.address}"]\n' + quick
        async with (
            running_daemon("--demo-nodes", "2", config=config) as daemon,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_one_session_at_most, daemon)
            slow = await _slow_transfer(daemon)
            await anyio.to_thread.run_sync(first.start)
            await daemon.wait_log("its name", lambda line: _waits_for(slow, line), 20)
            with anyio.move_on_after(2 * LOOK_S + 0.5):
                while True:
                    status = await daemon.status()
                    assert (status["state"], status["cluster"]["id"]) == ("connected", _id(head))
                    await anyio.sleep(0.1)
            assert (await daemon.get(f"/api/transfers/{slow}"))["state"] == "running"

            assert (await daemon.ask("DELETE", f"/api/transfers/{slow}"))[0] == 200
            back = await daemon.wait_status(
                "the first",
                lambda s: s["state"] == "connected" and s["cluster"]["id"] == _id(first),
            )
            assert back["attempt"]["trigger"] == "failback"
            (ended,) = await daemon.events("castray.transfer.finished")
            (lost,) = await daemon.events("castray.connection.lost")
            assert (ended["id"], ended["seq"] < lost["seq"]) == (slow, True)
            assert sum(_waits_for(slow, line) for line in daemon.logs()) == 1
            tasks.cancel_scope.cancel()


async def _slow_transfer(daemon: Daemon) -> str:
    """Start one that takes a minute; returns its id when a part of it has arrived."""
    one, two = await ready(daemon, 2)
    made(f"{one['roots']['files']}/slow.bin", 64 * MIB)
    source = {"node": one["name"], "path": "files:slow.bin"}
    body = {"source": source, "to": [two["name"]], "bandwidth_bytes_s": MIB}
    _, sent = await daemon.post("/api/transfers", body)
    await daemon.wait_event("castray.transfer.progress", lambda e: e["bytes_verified"] > 0)
    return str(sent["id"])


def _waits_for(transfer: str, line: dict[str, Any]) -> bool:
    return bool(line["message"].endswith(f"the move waits for transfer {transfer}"))


@pytest.mark.ray
@pytest.mark.lab
async def test_same_cluster_is_moved_back_to_at_once(head: RayHead) -> None:
    """The preferred name of the same cluster needs no hold, and is no other cluster."""
    addresses = f'["head.example:{head.port}", "{head.address}"]'
    config = f"[ray]\naddress = {addresses}\n" + QUICK.replace("good_s = 3", "good_s = 600")
    async with running_daemon(config=config, launch=False) as daemon:
        launch_with_hosts(daemon, "240.0.0.1 head.example")
        await daemon.answers()
        await daemon.wait_state("connected")
        await anyio.sleep(1.0)
        assert (await daemon.status())["state"] == "connected"
        write_hosts(daemon, "127.0.0.1 head.example")
        status = await daemon.wait_status(
            "the preferred name",
            lambda s: s["state"] == "connected" and s["address"]["url"].startswith("head.example"),
        )
        assert status["attempt"]["trigger"] == "failback"


@pytest.mark.ray
async def test_out_of_reach_starts_a_local_cluster_until_it_is_back() -> None:
    """Both switches: local after the wait, and degraded; with the outside back: moved there."""
    with ray_head(start=False) as outside:
        config = "[ray]\nfallback_after_s = 3\n" + QUICK
        arguments = "--allow-local-start", "--allow-local-fallback"
        async with running_daemon(*arguments, address=outside.address, config=config) as daemon:
            local = await daemon.wait_status(
                "the stand-in", lambda s: _reasons(s) == ["local_fallback"], 3 + 15
            )
            assert (local["state"], local["address"]["mode"]) == ("degraded", "local")
            errors = [c["error"] and c["error"]["type"] for c in local["attempt"]["candidates"]]
            assert errors == ["tcp_refused", None]
            assert "connected" not in await daemon.states()

            outside.start()
            back = await daemon.wait_state("connected", 30)
            assert back["cluster"]["id"] == _id(outside)
            assert back["attempt"]["trigger"] == "failback"
            left = [c for c in daemon.children().values() if "/raylet/raylet" in c]
            assert left == []


@pytest.mark.ray
async def test_switch_that_a_reload_turns_on_is_obeyed() -> None:
    """Also where the wait has passed long ago; and turned off again, the stand-in is given up."""
    plain = "[ray]\nallow_local_start = true\n" + QUICK
    switched = "[ray]\nallow_local_start = true\nallow_local_fallback = true\n"
    async with refused() as address, running_daemon(address=address, config=plain) as daemon:
        await daemon.wait_status("an error", lambda s: s["error"] is not None)
        path = daemon.folder / "castrayd.toml"
        path.write_text(switched + "fallback_after_s = 2\n" + QUICK)
        assert (await daemon.post("/api/reload"))[1]["reconnect"] is True
        await daemon.wait_status(
            "the stand-in", lambda s: _reasons(s) == ["local_fallback"], 2 + 15
        )
        path.write_text(plain)
        assert (await daemon.post("/api/reload"))[1]["reconnect"] is True
        await daemon.wait_status(
            "refused", lambda s: (s["error"] or {}).get("type") == "tcp_refused"
        )
        with anyio.fail_after(5):
            while daemon.ray_processes():
                await anyio.sleep(0.1)


@pytest.mark.ray
async def test_stale_note_is_no_wish(tmp_path: Path) -> None:
    """After a crash Ray's note leads nowhere: a cluster of our own is one, and no stand-in."""
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    config = '[ray]\ndiscovery = ["ray_current_cluster"]\nallow_local_start = true\n' + QUICK
    for stale in (refused, http_server):
        async with stale() as address:
            note.write_text(address)
            environ = {"RAY_TMPDIR": str(tmp_path)}
            async with running_daemon(config=config, environ=environ) as daemon:
                status = await daemon.wait_state("connected", 30)
                assert (status["reasons"], status["address"]["mode"]) == ([], "local")


async def test_operator_error_never_starts_a_local_cluster() -> None:
    """What waiting does not mend is told, and nothing is started in its stead."""
    config = "[ray]\nfallback_after_s = 1\n" + QUICK
    arguments = "--allow-local-start", "--allow-local-fallback"
    async with (
        http_server() as address,
        running_daemon(*arguments, address=address, config=config) as daemon,
    ):
        for _ in range(4):
            await daemon.wait_status(
                "not_ray", lambda s: (s["error"] or {}).get("type") == "not_ray"
            )
            await anyio.sleep(0.6)
            await daemon.post("/api/reconnect")
        assert daemon.ray_processes() == []


async def test_fallback_needs_the_master_switch() -> None:
    """Alone it is a bad configuration: exit 78."""
    async with running_daemon(launch=False) as daemon:
        daemon._arguments = (*daemon._arguments, "--allow-local-fallback")
        daemon.launch()
        assert await daemon.exit_code() == 78
        assert "ray.allow_local_start" in daemon.log_text()


@pytest.mark.ray
async def test_reload_keeps_what_is_still_a_candidate(head: RayHead) -> None:
    """A preferred address put before it: the session stays, the reply says so, failback follows."""
    with ray_head() as preferred:
        config = f'[ray]\naddress = "{head.address}"\n' + QUICK
        async with running_daemon(config=config) as daemon:
            before = await daemon.wait_state("connected")
            path = daemon.folder / "castrayd.toml"
            both = f'[ray]\naddress = ["{preferred.address}", "{head.address}"]\n' + QUICK
            path.write_text(both)
            _, reply = await daemon.post("/api/reload")
            kept = await daemon.status()

            assert reply == {
                "changed": ["ray.address"], "reconnect": False, "restart_required": [],
            }  # fmt: skip
            assert kept["session"]["pid"] == before["session"]["pid"]
            moved = await daemon.wait_status(
                "the preferred one",
                lambda s: s["state"] == "connected" and s["cluster"]["id"] == _id(preferred),
                20,
            )
            assert moved["attempt"]["trigger"] == "failback"

            path.write_text("[ray]\nallow_local_start = 3\n")
            code, refusal = await daemon.post("/api/reload")
            assert code == 400
            assert "ray.allow_local_start" in refusal["error"]["message"]
            assert (await daemon.status())["session"]["pid"] == moved["session"]["pid"]


@pytest.mark.ray
async def test_reload_takes_discovery_and_switches(head: RayHead, tmp_path: Path) -> None:
    """A file of addresses that is named by a reload is used at once."""
    file = tmp_path / "addresses"
    file.write_text(head.address)
    async with running_daemon(config="[ray]\ndiscovery = []\n" + QUICK) as daemon:
        await daemon.wait_status("an error", lambda s: s["error"] is not None)
        text = f'[ray]\ndiscovery = ["file"]\naddresses_file = "{file}"\n' + QUICK
        (daemon.folder / "castrayd.toml").write_text(text)
        _, reply = await daemon.post("/api/reload")
        assert (reply["changed"], reply["reconnect"]) == (
            ["ray.discovery", "ray.addresses_file"], True,
        )  # fmt: skip
        status = await daemon.wait_state("connected")
        assert status["attempt"]["trigger"] == "config_reload"
