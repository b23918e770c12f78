"""Files larger than what their way may hold: whole at their end, and the memory as before."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.casting import casting, ready
from tests.support.daemon import Daemon
from tests.support.files import MIB, ended, made, sha256_of
from tests.support.ray import RayHead

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SMALL, LARGE = 64 * MIB, 4096 * MIB
GROWTH = 1.2


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on the disk: /tmp may be memory."""
    path = Path(tempfile.mkdtemp(prefix="castrayd-big-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


async def _sent(daemon: Daemon, nodes: list[Any], name: str, size: int) -> Any:
    """Send a file from the first node to the others, and wait for its end."""
    digest = made(f"{nodes[0]['roots']['files']}/{name}", size)
    source = {"node": nodes[0]["name"], "path": f"files:{name}"}
    body = {"source": source, "to": [node["name"] for node in nodes[1:]]}
    _, one = await daemon.ask("POST", "/api/transfers", body)
    one = await ended(daemon, one["id"], 400)
    assert (one["state"], one["sha256"]) == ("done", digest), one
    return one


async def test_gibibyte_goes_to_three(cluster: RayHead, cluster_python: str, folder: Path) -> None:
    async with casting(cluster, cluster_python, folder, "--demo-nodes", "4") as daemon:
        nodes = await ready(daemon, 4)
        one = await _sent(daemon, nodes, "gibibyte", 1024 * MIB)
        for node in nodes[1:]:
            assert sha256_of(f"{node['roots']['files']}/gibibyte") == one["sha256"]


@pytest.mark.long
async def test_memory_does_not_grow_with_the_file(
    cluster: RayHead, cluster_python: str, folder: Path
) -> None:
    """Of daemon, session and actors, each by itself; the first transfer is what warms them up."""
    async with casting(cluster, cluster_python, folder, "--demo-nodes", "2") as daemon:
        nodes = await ready(daemon, 2)
        await _sent(daemon, nodes, "warm", SMALL)
        small = await _peaks(cluster, daemon, _sent(daemon, nodes, "small", SMALL))
        large = await _peaks(cluster, daemon, _sent(daemon, nodes, "large", LARGE))
        assert small.keys() == large.keys()
        for name, peak in large.items():
            assert peak <= GROWTH * small[name], (name, small, large)


async def _peaks(cluster: RayHead, daemon: Daemon, sending: Any) -> dict[str, int]:
    """The most anonymous memory of each process while something is awaited, in bytes."""
    pids = {"daemon": daemon.pid}
    pids |= {f"session {number}": pid for number, pid in enumerate(daemon.joined())}
    pids |= {f"actor {pid}": pid for pid, line in cluster.processes() if "ray::Caster" in line}
    assert len(pids) >= 4, pids
    peaks = dict.fromkeys(pids, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, pids, peaks)
        await sending
        tasks.cancel_scope.cancel()
    return peaks


async def _watch(pids: dict[str, int], peaks: dict[str, int]) -> None:
    while True:
        for name, pid in pids.items():
            with contextlib.suppress(OSError):
                found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                peaks[name] = max(peaks[name], int(found[1]) * 1024 if found else 0)
        await anyio.sleep(0.05)
