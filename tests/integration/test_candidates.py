"""Which cluster is attached: every source, in its order, against real clusters."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.daemon import running_daemon
from tests.support.hosts import launch_with_hosts, write_hosts
from tests.support.peers import refused
from tests.support.ray import RayHead, ray_head


@pytest.fixture(scope="module")
def other() -> Iterator[RayHead]:
    """A second cluster on this host."""
    with ray_head() as running:
        yield running


def _tried(status: Any) -> list[tuple[str, str | None]]:
    """Source and class of error of each candidate of the last attempt."""
    found = status["attempt"]["candidates"]
    return [(c["source"], c["error"] and c["error"]["type"]) for c in found]


CLI, ENV, CONFIG = "cli", "env:RAY_ADDRESS", "config"
NOTE, FILE = "discovery:ray_current_cluster", "discovery:file"
DEAD = "tcp_refused"
TABLE: list[tuple[str, dict[str, list[str]], list[tuple[str, str | None]], str]] = [
    # what, where each letter is given (a, b: clusters, x: refused, ac: a by Ray Client) and what
    # is switched on, what is tried with which end, what is attached (local: a cluster of our own)
    ("argument first", {"cli": ["a"], "env": ["b"], "config": ["b"]}, [(CLI, None)], "a"),
    ("then the environment", {"env": ["a"], "config": ["b"]}, [(ENV, None)], "a"),
    ("then the config", {"config": ["b"]}, [(CONFIG, None)], "b"),
    ("list in order", {"config": ["x", "b", "a"]}, [(CONFIG, DEAD), (CONFIG, None), (CONFIG, None)],
     "b"),
    ("first of two good ones", {"config": ["a", "b"]}, [(CONFIG, None), (CONFIG, None)], "a"),
    ("discovery after all that", {"env": ["x"], "file": ["a"]}, [(ENV, DEAD), (FILE, None)], "a"),
    ("variable as the last resort", {"cli": ["x"], "env": ["a"]}, [(CLI, DEAD), (ENV, None)], "a"),
    ("discovery before it", {"cli": ["x"], "env": ["a"], "file": ["b"]},
     [(CLI, DEAD), (FILE, None)], "b"),
    ("auto is discovery alone", {"env": ["auto"], "config": ["a"], "file": ["b"]},
     [(FILE, None)], "b"),
    ("auto as an argument too", {"cli": ["auto"], "env": ["a"], "file": ["b"]},
     [(FILE, None)], "b"),
    ("a place named twice is tried once", {"env": ["a"], "file": ["a"]}, [(ENV, None)], "a"),
    ("bad variable hides the config", {"env": ["nonsense"], "config": ["a"]},
     [(ENV, "address_invalid")], ""),
    ("all dead", {"env": ["x"], "file": ["x"]}, [(ENV, DEAD)], ""),
    ("nothing at all", {}, [], ""),
    ("Ray Client by the environment", {"env": ["ac"], "config": ["b"]}, [(ENV, None)], "ac"),
    ("Ray Client after a dead head", {"config": ["x", "ac"]}, [(CONFIG, DEAD), (CONFIG, None)],
     "ac"),
    ("Ray's own note", {"note": ["a"]}, [(NOTE, None)], "a"),
    ("note after the configured", {"env": ["x"], "note": ["b"]}, [(ENV, DEAD), (NOTE, None)], "b"),
    ("note before the file", {"note": ["b"], "file": ["a"]}, [(NOTE, None), (FILE, None)], "b"),
    ("own cluster where allowed", {"switch": ["start"]}, [("local", None)], "local"),
    ("none where one is configured", {"env": ["x"], "switch": ["start"]}, [(ENV, DEAD)], ""),
    ("none where one is discovered", {"file": ["x"], "switch": ["start"]}, [(FILE, DEAD)], ""),
    ("none while the wait lasts", {"env": ["x"], "switch": ["start", "fallback"]}, [(ENV, DEAD)],
     ""),
    ("found before one of our own", {"file": ["a"], "switch": ["start", "fallback"]},
     [(FILE, None)], "a"),
]  # fmt: skip


@pytest.mark.ray
@pytest.mark.parametrize(("given", "tried", "attached"), [row[1:] for row in TABLE],
                         ids=[row[0] for row in TABLE])  # fmt: skip
async def test_candidates_are_tried_in_order(  # noqa: PLR0917
    head: RayHead,
    other: RayHead,
    tmp_path: Path,
    given: dict[str, list[str]],
    tried: list[tuple[str, str | None]],
    attached: str,
) -> None:
    """Each row: candidates with their sources and ends, mode, cluster and state."""
    head.wait_client_server()
    async with refused() as dead:
        client = head.client_address
        places = {"a": head.address, "b": other.address, "ac": client, "x": dead}
        named = {key: [places.get(one, one) for one in ones] for key, ones in given.items()}
        file, note = tmp_path / "addresses", tmp_path / "ray" / "ray_current_cluster"
        file.write_text("\n".join(named.get("file", ())))
        note.parent.mkdir()
        note.write_text("\n".join(named.get("note", ())))
        config = '[ray]\ndiscovery = ["file", "ray_current_cluster"]\n'
        config += f'addresses_file = "{file}"\n'
        if "config" in named:
            config += f"address = {named['config']}\n"
        arguments = [f"--address={one}" for one in named.get("cli", ())]
        arguments += [f"--allow-local-{switch}" for switch in named.get("switch", ())]
        env, environ = named.get("env", [None])[0], {"RAY_TMPDIR": str(tmp_path)}
        async with running_daemon(
            *arguments, address=env, config=config, environ=environ
        ) as daemon:
            status = await daemon.wait_status(
                "an attempt, and what came of it",
                lambda s: (
                    s["state"] != "discovering"
                    and (s["attempt"] or {}).get("outcome")
                    # Ray's proxy now and then fails so in a head's first second; it is tried again
                    and (s["error"] or {}).get("type") != "client_server_start_failed"
                ),
                30,
            )
            assert tried == _tried(status)
            assert status["state"] == ("connected" if attached else "disconnected")
            assert (status["error"] is None) == bool(attached)
            assert daemon.ray_processes() == [] or attached == "local"
            if attached:
                mode = {"ac": "client", "local": "local"}.get(attached, "driver")
                sources = [source for source, error in tried if error is None]
                assert status["address"]["mode"] == mode
                assert status["address"]["source"] == sources[0]
                assert places.get(attached, "local") == status["address"]["url"]
            if attached in {"a", "b"}:
                cluster = {"a": head, "b": other}[attached].raylet
                assert cluster is not None
                assert status["cluster"]["id"] == cluster.cluster_id


@pytest.mark.ray
async def test_raylets_of_this_host_are_discovered(head: RayHead, other: RayHead) -> None:
    """With nothing configured this host's own clusters are found, and told apart by their ids."""
    async with running_daemon(config='[ray]\ndiscovery = ["raylet"]\n') as daemon:
        status = await daemon.wait_state("connected")

        assert status["address"]["source"] == "discovery:raylet"
        assert head.raylet is not None
        assert other.raylet is not None
        assert head.raylet.cluster_id != other.raylet.cluster_id
        assert status["cluster"]["id"]


@pytest.mark.ray
async def test_note_of_the_last_cluster_is_verified(head: RayHead, tmp_path: Path) -> None:
    """Ray's own note leads to the cluster; when it is stale it is one more candidate that fails."""
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    environ = {"RAY_TMPDIR": str(tmp_path)}
    config = '[ray]\ndiscovery = ["ray_current_cluster"]\n[backoff]\ninitial_s = 60\ngap_s = 60\n'
    async with refused() as dead:
        note.write_text(dead)
        async with running_daemon(config=config, environ=environ) as daemon:
            status = await daemon.wait_status("an error", lambda s: s["error"] is not None)
            assert _tried(status) == [("discovery:ray_current_cluster", DEAD)]
            note.write_text(head.address)
            status = await daemon.wait_state("connected", 10)
            assert status["attempt"]["trigger"] == "discovery"


@pytest.mark.ray
async def test_new_address_in_the_file_is_tried_at_once(head: RayHead, tmp_path: Path) -> None:
    """The file is watched: no backoff has to pass, also when the file was not there before."""
    file = tmp_path / "addresses"
    config = (
        f'[ray]\ndiscovery = ["file"]\naddresses_file = "{file}"\n[backoff]\ninitial_s = 60\n'
        "gap_s = 60\n"
    )
    async with running_daemon(config=config) as daemon:
        await daemon.wait_status("an error", lambda s: s["error"] is not None)
        file.write_text(f"{head.address}\n")
        status = await daemon.wait_state("connected", 6)
        assert status["attempt"]["trigger"] == "discovery"


@pytest.mark.ray
@pytest.mark.lab
async def test_every_address_of_a_name_is_a_candidate(head: RayHead) -> None:
    """One of the two leads nowhere, and is listed with its own error."""
    config = f'[ray]\ndiscovery = ["dns"]\ndns_name = "heads.example:{head.port}"\n'
    async with running_daemon(config=config, launch=False) as daemon:
        launch_with_hosts(daemon, "240.0.0.1 heads.example", "127.0.0.1 heads.example")
        await daemon.answers()
        status = await daemon.wait_state("connected")
        tried = {c["address"]: c["source"] for c in status["attempt"]["candidates"]}

        assert tried.keys() == {f"240.0.0.1:{head.port}", f"127.0.0.1:{head.port}"}
        assert set(tried.values()) == {"discovery:dns"}


@pytest.mark.ray
@pytest.mark.lab
async def test_host_that_changes_its_address_is_found_again(head: RayHead) -> None:
    """A name is resolved anew each time: by the light probe while down, and by the attempt."""
    config = "[backoff]\ninitial_s = 60\ngap_s = 60\n"
    address = f"head.example:{head.port}"
    async with running_daemon(address=address, config=config, launch=False) as daemon:
        launch_with_hosts(daemon, "240.0.0.1 head.example")
        await daemon.answers()
        await daemon.wait_status("an error", lambda s: s["error"] is not None)
        write_hosts(daemon, "127.0.0.1 head.example")
        status = await daemon.wait_state("connected", 15)
        assert status["attempt"]["trigger"] == "cluster_returned"


# --- Ray's own ways of starting a cluster, all closed ---


@pytest.mark.parametrize("address", ["local", "auto", "", "None", "ray://local", "localhost"])
async def test_no_word_for_an_address_starts_a_cluster(address: str) -> None:
    """What Ray takes as leave to start one is invalid, or means discovery, which finds nothing."""
    async with running_daemon(address=address) as daemon:
        await daemon.wait_status("an error", lambda s: s["error"] is not None)
        await anyio.sleep(1.5)
        assert daemon.ray_processes() == []


@pytest.mark.parametrize("address", ["local", "auto", "", "ray://"])
async def test_no_request_starts_a_cluster(address: str) -> None:
    """The API refuses such words by type."""
    async with refused() as dead, running_daemon(address=dead) as daemon:
        code, reply = await daemon.post("/api/reconnect", {"address": address})
        assert (code, reply["error"]["type"]) == (400, "bad_request")
        assert daemon.ray_processes() == []


@pytest.mark.parametrize("words", ['"local"', '["h:1", "local"]'])
def test_no_config_starts_a_cluster(words: str, tmp_path: Path) -> None:
    """A file with such a word is refused whole."""
    file = tmp_path / "castrayd.toml"
    file.write_text(f"[ray]\naddress = {words}\n")
    command = [sys.executable, "-m", "castrayd", "check-config", "--config", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 78
    assert "ray.address" in done.stderr


@pytest.mark.ray
async def test_discovered_word_starts_no_cluster(tmp_path: Path) -> None:
    """A file of addresses is text from outside like any other."""
    file = tmp_path / "addresses"
    file.write_text("local\nauto\n")
    config = f'[ray]\ndiscovery = ["file"]\naddresses_file = "{file}"\n'
    async with running_daemon(config=config) as daemon:
        status = await daemon.wait_status("an error", lambda s: s["error"] is not None)
        assert {kind for _, kind in _tried(status)} == {"address_invalid"}
        assert daemon.ray_processes() == []


@pytest.mark.ray
async def test_session_cannot_start_a_cluster_by_a_call_of_ray(head: RayHead) -> None:
    """Ray starts one in any call without a driver: the session has that switched off."""
    variables = {"RAY_ENABLE_AUTO_CONNECT": "1", "RAY_RUNTIME_ENV": "{}", "RAY_CLIENT_MODE": "1"}
    async with running_daemon(address=head.address, environ=variables) as daemon:
        status = await daemon.wait_state("connected")
        seen = Path(f"/proc/{status['session']['pid']}/environ").read_bytes().split(b"\0")

        assert b"RAY_ENABLE_AUTO_CONNECT=0" in seen
        assert not [one for one in seen if one.startswith((b"RAY_RUNTIME_ENV", b"RAY_CLIENT_MODE"))]
        assert daemon.ray_processes() == []
