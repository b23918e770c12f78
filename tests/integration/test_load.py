"""The daemon answers while Ray hangs, and large clusters are mapped."""

import os
import signal
import statistics
import subprocess
import sys
import time

import aiohttp
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused
from tests.support.ray import ray_head


async def _p99_s(daemon: Daemon, count: int = 1000) -> float:
    """The 99th percentile of GET /api/status, in seconds, over one connection."""
    connector = aiohttp.UnixConnector(str(daemon.socket))
    took = []
    async with aiohttp.ClientSession("http://castrayd", connector=connector) as web:
        for _ in range(count):
            began = time.perf_counter()
            async with web.get("/api/status") as response:
                await response.read()
            took.append(time.perf_counter() - began)
            assert response.status == 200
    return statistics.quantiles(took, n=100)[98]


async def test_start_is_as_quick_as_its_imports() -> None:
    """The socket answers within a small multiple of its imports; tests/bench has the figure."""
    floor = [sys.executable, "-c", "import aiohttp.web, anyio, structlog"]
    floors, starts = [], []
    async with refused() as address:
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(floor, check=True)
            floors.append(time.perf_counter() - began)
            async with running_daemon(address=address, launch=False) as daemon:
                began = time.perf_counter()
                daemon.launch()
                await daemon.answers()
                starts.append(time.perf_counter() - began)

    assert min(starts) <= 3 * min(floors)


@pytest.mark.ray
async def test_status_is_answered_while_init_hangs() -> None:
    """1,000 requests while ray.init hangs: p99 at most twice the idle one, or 10 ms."""
    config = "[deadlines]\ninit_s = 30\nattempt_s = 60\n"
    with ray_head() as head:
        raylet = head.raylet
        assert raylet is not None
        os.kill(raylet.pid, signal.SIGSTOP)
        async with refused() as nothing, running_daemon(address=nothing) as idle:
            await idle.wait_status("a long wait", lambda s: (s["next_retry_in_s"] or 0) > 3)
            idle_p99_s = await _p99_s(idle)
        async with running_daemon(address=head.address, config=config) as daemon:
            await daemon.wait_status(
                "init under way", lambda s: s["attempt"] and "spawn" in s["attempt"]["phases"]
            )
            p99_s = await _p99_s(daemon)
            assert (await daemon.status())["state"] == "discovering"

            # twice the promise: other work shares this machine; tests/bench measures it
            assert p99_s <= 2 * max(2 * idle_p99_s, 0.010)


@pytest.mark.ray
async def test_two_dozen_nodes_are_mapped_and_their_deaths_told() -> None:
    """23 raylets are 23 nodes; three that are killed show in the event stream."""
    from tests.support.many import many_raylets

    with many_raylets(23) as cluster:
        async with running_daemon(address=cluster.address) as daemon:
            status = await daemon.wait_state("connected", 30)
            assert status["cluster"]["nodes_alive"] == 23
            assert status["cluster"]["resources_total"]["CPU"] == 23
            nodes = (await daemon.get("/api/cluster/nodes"))["nodes"]
            assert len({node["node_id"] for node in nodes}) == 23
            assert sum(node["head"] for node in nodes) == 1

            killed = cluster.kill_workers(3)
            seen: set[str] = set()

            def all_seen(event: dict[str, list[str]]) -> bool:
                seen.update(event["died"])
                return killed <= seen

            await daemon.wait_event("castray.nodes.changed", all_seen, 40)
            status = await daemon.wait_status(
                "three dead", lambda s: s["cluster"] and s["cluster"]["nodes_alive"] == 20, 40
            )
            assert status["cluster"]["nodes_dead"] == 3
