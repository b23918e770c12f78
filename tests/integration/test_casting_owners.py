"""Several daemons' casting nodes on one cluster: whose they are, and of what they are made."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.support.casting import casting, driven, killed, names, strange
from tests.support.daemon import Daemon
from tests.support.files import ended
from tests.support.ray import RayHead

pytestmark = pytest.mark.ray


def _pid(cluster: RayHead, python: str, name: str) -> int:
    return int(driven(cluster, python, name, "describe")["pid"])


@asynccontextmanager
async def _frozen(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def _named(daemon: Daemon, count: int) -> None:
    with anyio.fail_after(20):
        while len((await daemon.get("/api/nodes"))["nodes"]) != count:
            await anyio.sleep(0.2)


@asynccontextmanager
async def _two(cluster: RayHead, python: str, folder: Path) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Two daemons on one cluster."""
    async with (
        casting(cluster, python, folder / "a") as ours,
        casting(cluster, python, folder / "b") as theirs,
    ):
        yield ours, theirs


async def test_anothers_node_outlives_what_we_want_no_more(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """It hangs for longer than anybody waits, and has the name; it is not ours to remove."""
    async with _two(cluster, cluster_python, tmp_path) as (ours, theirs):
        assert (await theirs.ask("POST", "/api/nodes", {"name": "x"}))[0] == 201
        pid = _pid(cluster, cluster_python, "x")
        async with _frozen(pid):
            body = {"name": "x", "required": False}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ours.ask, "POST", "/api/nodes", body)
                await anyio.sleep(5)  # it is wanted by now, and being asked for
                tasks.cancel_scope.cancel()
            with anyio.fail_after(8):  # nobody waits for it who is about another one
                assert (await ours.ask("POST", "/api/nodes", {"name": "y"}))[0] == 201
                assert (await ours.ask("DELETE", "/api/nodes/y"))[0] == 200
            with anyio.fail_after(12):  # twice as long as it is asked
                assert (await ours.ask("DELETE", "/api/nodes/x"))[0] == 200
        assert _pid(cluster, cluster_python, "x") == pid
        with anyio.fail_after(20):
            while (await theirs.get("/api/nodes/x"))["state"] != "ready":
                await anyio.sleep(0.2)


async def test_nobody_waits_for_anothers_frozen_node(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """A message to `all` takes as long as those take that are there."""
    async with _two(cluster, cluster_python, tmp_path) as (ours, theirs):
        await ours.ask("POST", "/api/nodes", {"name": "near"})
        await theirs.ask("POST", "/api/nodes", {"name": "far"})
        await _named(ours, 2)
        async with _frozen(_pid(cluster, cluster_python, "far")):
            await _named(ours, 1)
            took = []
            for number in range(8):
                began = time.monotonic()
                _, cast = await ours.ask("POST", "/api/messages", {"to": "all", "body": number})
                took.append(time.monotonic() - began)
                assert (cast["delivered"], cast["failed"]) == (1, 0)
                await anyio.sleep(0.7)
            assert max(took) < 1.0, took


async def test_stranger_of_a_nodes_name_harms_nobody(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """Any Ray job may make one, and have it answer anything: it is no node, and no more."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "x"})
        strange(cluster, cluster_python, "stranger")
        session = (await daemon.status())["session"]["pid"]
        try:
            await anyio.sleep(3)  # it is among those that are asked
            for to, delivered in (("all", 1), (["stranger", "x"], 1), (["stranger"], 0)):
                code, cast = await daemon.ask("POST", "/api/messages", {"to": to, "body": "a"})
                assert (code, cast["delivered"]) == (200, delivered)
            assert cast["receipts"][0]["outcome"] == "timed_out"
            assert [one["name"] for one in (await daemon.get("/api/nodes"))["nodes"]] == ["x"]
            assert (await daemon.ask("GET", "/api/nodes/stranger"))[0] == 404
            for what in ("messages", "files?path=files:"):
                assert (await daemon.ask("GET", f"/api/nodes/stranger/{what}"))[0] == 503
            by_udp = {"from": "stranger", "to": ["udp:127.0.0.1:9"], "body": 1}
            code, cast = await daemon.ask("POST", "/api/messages", by_udp)
            assert (code, cast["receipts"][0]["outcome"]) == (200, "timed_out")
            body = {"name": "stranger", "required": False}
            code, node = await daemon.ask("POST", "/api/nodes", body)
            assert (code, node["state"]) == (201, "pending")
            killed(cluster, cluster_python, "x")
            with anyio.fail_after(20):  # others are looked after all the same
                while "x" not in names(cluster, cluster_python):
                    await anyio.sleep(0.2)
            assert (await daemon.status())["session"]["pid"] == session
        finally:
            killed(cluster, cluster_python, "stranger")


async def test_reload_reaches_nodes_that_run(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """They are made again, with what was in their inbox, and nobody misses them."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "x"})
        await daemon.wait_state("connected")
        await daemon.ask("POST", "/api/messages", {"to": ["x"], "body": "kept"})
        before = _pid(cluster, cluster_python, "x")
        (tmp_path / "shared").mkdir()
        config = (
            f'[casting]\ninbox_messages = 7\n[casting.roots.shared]\npath = "{tmp_path}/shared"\n'
        )
        (daemon.folder / "castrayd.toml").write_text(config)
        assert (await daemon.post("/api/reload"))[0] == 200
        with anyio.fail_after(30):
            while (await daemon.get("/api/nodes/x"))["roots"].get("shared") is None:
                await anyio.sleep(0.2)
        node = await daemon.get("/api/nodes/x")
        assert (node["state"], node["inbox"]["capacity"]) == ("ready", 7)
        inbox = (await daemon.get("/api/nodes/x/messages"))["messages"]
        assert [message["body"] for message in inbox] == ["kept"]
        assert "castray.caster.lost" not in {event["name"] for event in await daemon.events()}
        after = _pid(cluster, cluster_python, "x")
        await anyio.sleep(5)
        assert before != after == _pid(cluster, cluster_python, "x")


async def test_sender_of_uploads_comes_back_and_is_purged(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """Within one attachment; a decommissioned daemon leaves nothing on the cluster."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "x"})
        hidden = ""
        for number in range(2):
            assert (await daemon.ask("PUT", "/api/uploads/a", {"number": number}))[0] == 201
            body = {"source": {"upload": "a"}, "to": ["x"], "path": f"files:{number}"}
            _, sent = await daemon.ask("POST", "/api/transfers", body)
            assert (await ended(daemon, sent["id"]))["state"] == "done"
            (hidden,) = (n for n in names(cluster, cluster_python) if n.startswith("_"))
            if number == 0:
                killed(cluster, cluster_python, hidden)
        assert (await daemon.ask("DELETE", "/api/uploads/a"))[0] == 200
        assert (await daemon.ask("PUT", "/api/uploads/b", {}))[0] == 201
        body = {"source": {"upload": "b"}, "to": ["nobody"]}
        _, waits = await daemon.ask("POST", "/api/transfers", body)
        assert (await daemon.ask("DELETE", "/api/nodes"))[0] == 409
        await daemon.ask("DELETE", f"/api/transfers/{waits['id']}")
        code, done = await daemon.ask("DELETE", "/api/nodes")
        assert (code, set(done["removed"]), done["left"]) == (200, {"x", hidden}, [])
        await anyio.sleep(1)
        assert names(cluster, cluster_python) == []
