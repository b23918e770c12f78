"""Transfers, and the nodes that carry them, while what they run on is killed in the middle."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from castrayd.casting.plans import sizes
from tests.support.casting import casting, cluster_of_four, ready
from tests.support.daemon import Daemon
from tests.support.files import ACTIVE, MIB, made, sha256_of
from tests.support.processes import kill
from tests.support.ray import RayHead

SIZE = 72 * MIB + 17
RATE = 12 * MIB
STORE = 80_000_000
"""Of each raylet of the tests."""

Node = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(cluster_python: str) -> Iterator[RayHead]:
    with cluster_of_four(cluster_python) as head:
        yield head


@dataclass
class Course:
    """A transfer in its middle."""

    daemon: Daemon
    id: str
    size: int
    sha256: str
    sender: Node
    receivers: list[Node]

    async def arrived(self, timeout_s: float = 60, most_again: int | None = None) -> Any:
        """Wait for its end, looking all the while that nothing but whole files stand there."""
        done = await self.over(timeout_s)
        assert done["state"] == "done", done
        assert (done["sha256"], done["bytes_total"]) == (self.sha256, self.size)
        for part in done["recipients"]:
            assert (part["state"], part["bytes_verified"]) == ("done", self.size), part
            assert most_again is None or part["bytes_sent"] - self.size <= most_again, part
        for node in self.receivers:
            self.check(node)
        return done

    async def over(self, timeout_s: float = 60) -> Any:
        """Wait for its end, whatever it is."""
        whole: set[str] = set()
        one = None
        with anyio.move_on_after(timeout_s):
            while True:
                whole |= {n["name"] for n in self.receivers if self._stands_whole(n, whole)}
                status, one = await self.daemon.ask("GET", f"/api/transfers/{self.id}")
                if status == 200 and one["state"] not in ACTIVE:
                    return one
                await anyio.sleep(0.05)
        raise AssertionError(f"not ended: {one}\n{self.daemon.log_text()[-4000:]}")

    def _stands_whole(self, node: Node, known: set[str]) -> bool:
        path = self.path(node)
        if node["name"] in known or not os.path.exists(path):
            return False
        assert sha256_of(path) == self.sha256, f"a part stands as {path}"
        return True

    def check(self, node: Node) -> None:
        """A copy is whole, and nothing else is left."""
        assert sha256_of(self.path(node)) == self.sha256
        assert _partials(node) == []

    def path(self, node: Node) -> str:
        return f"{node['roots']['files']}/big.bin"


def _partials(node: Node) -> list[str]:
    return [n for n in os.listdir(node["roots"]["files"]) if n.startswith(".castray-")]


async def _under_way(daemon: Daemon, nodes: list[Node], size: int = SIZE) -> Course:
    """Send a file from the first node to the others; returns when a fifth is everywhere."""
    sender, *receivers = nodes
    digest = made(f"{sender['roots']['files']}/big.bin", size)
    body = {
        "source": {"node": sender["name"], "path": "files:big.bin"},
        "to": [node["name"] for node in receivers],
        "bandwidth_bytes_s": RATE,
    }
    status, sent = await daemon.ask("POST", "/api/transfers", body)
    assert status == 202, sent
    course = Course(daemon, sent["id"], size, digest, sender, receivers)
    with anyio.fail_after(30):
        while True:
            one = await daemon.get(f"/api/transfers/{course.id}")
            if all(part["bytes_verified"] >= size // 5 for part in one["recipients"]):
                assert one["state"] == "running", one
                return course
            await anyio.sleep(0.02)


def _window() -> int:
    """How many bytes may be on their way to one recipient."""
    chunk, count = sizes([STORE], RATE)
    return chunk * count


def _caster_pid(node: Node) -> int:
    """The process of a casting node: it holds its inbox open."""
    inbox = f"{Path(node['roots']['files']).parent}/inbox.sqlite"
    for process in psutil.process_iter():
        try:
            if any(inbox == file.path for file in process.open_files()):
                return process.pid
        except psutil.Error:
            continue
    raise AssertionError(f"no process of {node['name']}")


async def _killed_and_again(daemon: Daemon) -> None:
    """SIGKILL the daemon and start it on the same state."""
    daemon.signal(signal.SIGKILL)
    await daemon.nothing_left(1.0)
    daemon.forget()
    daemon.launch()
    await daemon.answers()


@pytest.mark.ray
@pytest.mark.parametrize("victim", ["sender", "receiver", "session", "daemon"])
async def test_killed_process_costs_a_window_at_most(
    cluster: RayHead, cluster_python: str, tmp_path: Path, victim: str
) -> None:
    """Whichever process is SIGKILLed in the middle: all copies arrive, little is sent again."""
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "4") as daemon:
        course = await _under_way(daemon, await ready(daemon, 4))
        match victim:
            case "sender":
                kill(_caster_pid(course.sender))
            case "receiver":
                kill(_caster_pid(course.receivers[1]))
            case "session":
                kill((await daemon.status())["session"]["pid"])
            case _:
                await _killed_and_again(daemon)
        await course.arrived(most_again=_window())
        await ready(daemon, 4)
