"""Transfers, and the nodes that carry them, while what they run on is killed in the middle."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from castrayd.casting.plans import sizes
from tests.support.casting import casting, cluster_of_four, ready
from tests.support.daemon import Daemon, running_daemon
from tests.support.files import ACTIVE, MIB, made, sha256_of
from tests.support.peers import refused
from tests.support.processes import free_port, kill, until
from tests.support.ray import RayHead, ray_head

SIZE = 48 * MIB + 17
SIZES = [SIZE, pytest.param(512 * MIB, marks=pytest.mark.long)]
RATE = 12 * MIB
STORE = 80_000_000
"""Of each raylet of the tests."""

DEMO = ("--demo-nodes", "4")

Node = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(cluster_python: str) -> Iterator[RayHead]:
    with cluster_of_four(cluster_python, port=free_port()) as head:
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
    name: str

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
        return f"{node['roots']['files']}/{self.name}"


def _partials(node: Node) -> list[str]:
    return [n for n in os.listdir(node["roots"]["files"]) if n.startswith(".castray-")]


async def _sent(
    daemon: Daemon, nodes: list[Node], size: int, name: str = "big", rate: int = RATE
) -> Course:
    """Send a file from the first node to the others."""
    sender, *receivers = nodes
    digest = made(f"{sender['roots']['files']}/{name}", size)
    body = {
        "source": {"node": sender["name"], "path": f"files:{name}"},
        "to": [node["name"] for node in receivers],
        "bandwidth_bytes_s": rate,
    }
    status, sent = await daemon.post("/api/transfers", body)
    assert status == 202, sent
    return Course(daemon, sent["id"], size, digest, sender, receivers, name)


async def _under_way(
    daemon: Daemon, nodes: list[Node], size: int = SIZE, name: str = "big", rate: int = RATE
) -> Course:
    """Send a file; returns when a fifth of it is everywhere."""
    course = await _sent(daemon, nodes, size, name, rate)
    with anyio.fail_after(30 + size / rate):
        while True:
            one = await daemon.get(f"/api/transfers/{course.id}")
            if all(part["bytes_verified"] >= size // 5 for part in one["recipients"]):
                assert one["state"] == "running", one
                return course
            await anyio.sleep(0.02)


async def _demo(daemon: Daemon) -> list[Node]:
    """Wait for the four demo nodes."""
    await ready(daemon, 4)
    return await _nodes(daemon, *(f"demo_node_{number}" for number in range(1, 5)))


async def _nodes(daemon: Daemon, *names: str) -> list[Node]:
    return [await daemon.get(f"/api/nodes/{name}") for name in names]


def _window() -> int:
    """How many bytes may be on their way to one recipient."""
    chunk, count = sizes([STORE], RATE)
    return chunk * count


def _caster_pid(node: Node) -> int:
    pid = _find_caster(node)
    assert pid is not None, f"no process of {node['name']}"
    return pid


def _find_caster(node: Node) -> int | None:
    """Find the process of a casting node: it holds its inbox open."""
    inbox = f"{Path(node['roots']['files']).parent}/inbox.sqlite"
    for process in psutil.process_iter():
        try:
            if any(inbox == file.path for file in process.open_files()):
                return process.pid
        except psutil.Error:
            continue
    return None


async def _killed_and_again(daemon: Daemon) -> None:
    """SIGKILL the daemon and start it on the same state."""
    daemon.signal(signal.SIGKILL)
    await daemon.nothing_left(1.0)
    daemon.forget()
    daemon.launch()
    await daemon.answers()


@pytest.mark.ray
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.timeout(600)
async def test_killed_process_costs_a_window_at_most(
    cluster: RayHead, cluster_python: str, tmp_path: Path, size: int
) -> None:
    """Whichever process is SIGKILLed in the middle: all copies arrive, little is sent again."""
    async with casting(cluster, cluster_python, tmp_path, *DEMO) as daemon:
        for victim in ("sender", "receiver", "session", "daemon"):
            course = await _under_way(daemon, await _demo(daemon), size, victim)
            await _kill(victim, course)
            await course.arrived(60 + size / RATE, most_again=_window())


async def _kill(victim: str, course: Course) -> None:
    match victim:
        case "sender":
            kill(_caster_pid(course.sender))
        case "receiver":
            kill(_caster_pid(course.receivers[1]))
        case "session":
            kill((await course.daemon.status())["session"]["pid"])
        case _:
            await _killed_and_again(course.daemon)


@pytest.mark.lab
@pytest.mark.ray
async def test_host_that_is_gone_fails_its_recipient_alone(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """A raylet that is killed for good: its recipient is unreachable, the others get the file."""
    more = {"patience_s": "6"}
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "3", **more) as daemon:
        await ready(daemon, 3)  # else one of them might be placed there
        before = {raylet.pid for raylet in cluster.raylets}
        await anyio.to_thread.run_sync(lambda: cluster.start_raylet(hostname="lonely"))
        lonely = next(raylet.pid for raylet in cluster.raylets if raylet.pid not in before)
        await daemon.wait_status("it", lambda s: s["cluster"]["nodes_alive"] == len(before) + 1)
        body = {"name": "alone", "on": {"hostname": "lonely"}}
        assert (await daemon.post("/api/nodes", body))[0] == 201
        await ready(daemon, 4)
        nodes = await _nodes(daemon, "demo_node_1", "demo_node_2", "demo_node_3", "alone")
        assert nodes[3]["hostname"] == "lonely"
        course = await _under_way(daemon, nodes)
        kill(lonely)
        over = await course.over()

        assert over["state"] == "partial", over
        *others, lost = over["recipients"]
        assert (lost["state"], lost["error"]["type"]) == ("failed", "unreachable")
        assert [part["state"] for part in others] == ["done", "done"]
        for node in course.receivers[:2]:
            course.check(node)
        assert not os.path.exists(course.path(nodes[3]))


@pytest.mark.lab
@pytest.mark.ray
async def test_full_disk_fails_its_recipient_alone(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """A receiver without room says `disk_full`, keeps nothing, and holds up nobody."""
    full = tmp_path / "castray" / "demo_node_3" / "files"
    full.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", full], check=True)
    try:
        more = {"disk_reserve_bytes": "0"}
        async with casting(cluster, cluster_python, tmp_path, *DEMO, **more) as daemon:
            course = await _sent(daemon, await _demo(daemon), 16 * MIB)
            over = await course.over()

            assert over["state"] == "partial", over
            one, other, failed = _by_name(over, "demo_node_2", "demo_node_4", "demo_node_3")
            assert (one["state"], other["state"]) == ("done", "done")
            assert (failed["state"], failed["error"]["type"]) == ("failed", "disk_full")
            assert list(full.iterdir()) == []
            for node in (course.receivers[0], course.receivers[2]):
                course.check(node)
    finally:
        subprocess.run(["umount", "--lazy", full], check=True)


def _by_name(transfer: Any, *names: str) -> list[Any]:
    parts = {part["recipient"]: part for part in transfer["recipients"]}
    return [parts[name] for name in names]


@pytest.mark.ray
async def test_two_daemons_share_a_cluster(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """Each keeps its own nodes and no other's, over kills, deletions and its own restart."""
    async with (
        casting(cluster, cluster_python, tmp_path) as first,
        casting(cluster, cluster_python, tmp_path) as second,
    ):
        await _made(first, "one", "brief")
        await _made(second, "two")
        await _refuses_what_is_the_others(first, second)
        await _refuses_what_is_the_others(second, first)
        for daemon in (first, second):
            with anyio.fail_after(10):  # others' nodes are looked for every two seconds
                while len((await daemon.get("/api/nodes"))["nodes"]) < 3:
                    await anyio.sleep(0.1)
            _, cast = await daemon.post("/api/messages", {"to": "all", "body": "hello"})
            assert cast["delivered"] == 3, cast

        one, two = await _nodes(first, "one", "two")
        assert (await _nodes(second, "one", "two")) == [one, two]
        for node, owner in ((one, first), (two, second)):
            await _comes_back(owner, node)

        await _stays_deleted(first, "brief", second)
        pids = [_caster_pid(one), _caster_pid(two)]
        await _killed_and_again(first)
        await second.stop()
        second.launch()
        await second.answers()
        await ready(first, 1)
        await ready(second, 1)
        assert [_caster_pid(one), _caster_pid(two)] == pids
        assert (await first.ask("GET", "/api/nodes/brief"))[0] == 404


async def _made(daemon: Daemon, *names: str) -> None:
    for name in names:
        status, node = await daemon.post("/api/nodes", {"name": name})
        assert (status, node["state"]) == (201, "ready"), node


async def _refuses_what_is_the_others(daemon: Daemon, other: Daemon) -> None:
    owner = (await other.status())["daemon"]["id"]
    name = next(n["name"] for n in (await other.get("/api/nodes"))["nodes"] if n["owner"] == owner)
    for method, path, body in (
        ("POST", "/api/nodes", {"name": name}),
        ("DELETE", f"/api/nodes/{name}", None),
    ):
        status, answer = await daemon.ask(method, path, body)
        assert (status, answer["error"]["type"]) == (409, "name_taken"), answer
        assert owner in answer["error"]["message"]


async def _comes_back(owner: Daemon, node: Node) -> None:
    """Kill a node's process: another one takes its place."""
    pid = _caster_pid(node)
    kill(pid)
    with anyio.fail_after(30):
        while _find_caster(node) in {None, pid}:
            await anyio.sleep(0.1)
    await owner.wait_status("ready", lambda s: s["casting"]["ready"] == s["casting"]["desired"])


async def _stays_deleted(owner: Daemon, name: str, other: Daemon) -> None:
    """Delete a node: its process ends, and for the other daemon, too, it is gone."""
    (node,) = await _nodes(owner, name)
    pid = _caster_pid(node)
    assert (await owner.ask("DELETE", f"/api/nodes/{name}"))[0] in {200, 204}
    with anyio.fail_after(20):
        while psutil.pid_exists(pid) or (await other.ask("GET", f"/api/nodes/{name}"))[0] != 404:
            await anyio.sleep(0.1)


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
async def test_accepted_transfer_outlives_the_daemon(times: int) -> None:
    """What was answered 202 is there after a SIGKILL at that instant, however often."""
    accepted: list[str] = []
    body = {"source": {"node": "a", "path": "files:x"}, "to": ["b"]}
    async with refused() as address, running_daemon(address=address) as daemon:
        for _ in range(times):
            status, one = await daemon.post("/api/transfers", body)
            daemon.signal(signal.SIGKILL)
            assert (status, one["state"]) == (202, "queued")
            accepted.append(one["id"])
            daemon.forget()
            daemon.launch()
            await daemon.answers()
        kept = (await daemon.get(f"/api/transfers?limit={times}"))["transfers"]
        found = {one["id"]: one for one in kept}
        assert [found[id_]["state"] for id_ in accepted] == ["queued"] * times


@pytest.mark.ray
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.timeout(300)
async def test_head_started_anew_is_gone_on_with(
    cluster: RayHead, cluster_python: str, tmp_path: Path, size: int
) -> None:
    """All of the cluster is killed and comes back at the same address: the transfer goes on."""
    async with casting(cluster, cluster_python, tmp_path, *DEMO) as daemon:
        course = await _under_way(daemon, await _demo(daemon), size)
        before = (await daemon.status())["cluster"]["id"]
        cluster.kill()
        await _is_interrupted(course)
        cluster.start()
        for _ in range(3):
            cluster.start_raylet()
        await course.arrived(60 + size / RATE, most_again=_window())
        assert (await daemon.status())["cluster"]["id"] != before
        await ready(daemon, 4)


async def _is_interrupted(course: Course) -> None:
    with anyio.fail_after(20):
        while (await course.daemon.get(f"/api/transfers/{course.id}"))["state"] != "interrupted":
            await anyio.sleep(0.05)


@pytest.mark.long
@pytest.mark.ray
async def test_old_cluster_that_lingers_does_not_interfere(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """A new head while raylets and casting nodes of the old one live on: the new ones take over."""
    async with casting(cluster, cluster_python, tmp_path, *DEMO) as daemon:
        nodes = await _demo(daemon)
        course = await _under_way(daemon, nodes, 60 * MIB, rate=RATE // 4)
        old = [_caster_pid(node) for node in nodes]
        cluster.kill_gcs()
        with ray_head(python=cluster_python, port=cluster.port):
            await _is_interrupted(course)
            assert all(map(psutil.pid_exists, old))  # the old sender goes on
            await course.arrived(90)
            until(lambda: not any(map(psutil.pid_exists, old)), 5, "their end")
            assert len(cluster.raylets) == 4
            for node in await _demo(daemon):
                await daemon.ask("DELETE", f"/api/nodes/{node['name']}")
