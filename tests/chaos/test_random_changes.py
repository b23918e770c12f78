"""Clusters, candidates and switches change at random, for minutes: nothing illegal, nothing left.

Everything is real: two clusters, the daemon, its file. The seed decides the order of events; what
the processes make of it is theirs.
"""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from castrayd.core.machine import TRANSITIONS
from tests.support.daemon import Daemon, running_daemon
from tests.support.processes import kill
from tests.support.ray import RayHead, ray_head

EDGES = {
    (source.value, target.value)
    for (source, _), row in TRANSITIONS.items()
    for target in row.targets
    if target is not source
}
TAKEN_AWAY_S = 20.0
"""An end of a local cluster that was allowed a moment ago may take so long at worst."""
BASE = """
[failback]
good_s = 4
[casting]
settle_s = 0.5
[backoff]
max_s = 4
[deadlines]
local_node_s = 4
[checks]
grace_s = 5
"""


class World:
    """What changes, and what must not."""

    def __init__(self, daemon: Daemon, heads: list[RayHead], seed: int, file: Path) -> None:
        self.daemon = daemon
        self.heads = heads
        self.rng = random.Random(seed)
        self.file = file
        self.may_start_until_s = 0.0
        """When the last leave to start a cluster ran out; infinite while it stands."""
        self.done: list[str] = []

    def write(self, *, local: bool = False) -> None:
        """Write a configuration; a leave that is taken away still counts for a while."""
        addresses = [head.address for head in self.heads]
        self.rng.shuffle(addresses)
        named = addresses[: self.rng.randint(0, 2)]
        found = addresses[: self.rng.randint(0, 2)]
        self.file.write_text("\n".join(found))
        stands_in = local and self.rng.random() < 0.7
        ray = (
            f"[ray]\naddress = {named}\n"
            f'discovery = ["file"]\naddresses_file = "{self.file}"\nfallback_after_s = 4\n'
            f"allow_local_start = {_toml(local)}\nallow_local_fallback = {_toml(stands_in)}\n"
        )
        (self.daemon.folder / "castrayd.toml").write_text(ray + BASE)
        if local:
            self.may_start_until_s = float("inf")
        elif self.may_start_until_s > time.monotonic():
            self.may_start_until_s = time.monotonic() + TAKEN_AWAY_S

    async def reload(self) -> None:
        self.write(local=self.rng.random() < 0.3)
        if self.rng.random() < 0.5:
            self.daemon.signal(signal.SIGHUP)
        else:
            code, _ = await self.daemon.post("/api/reload")
            assert code == 200

    async def kill_head(self) -> None:
        self.rng.choice(self.heads).kill()

    async def start_head(self) -> None:
        down = [head for head in self.heads if head.gcs_pid is None]
        if down:
            down[0].kill()
            await anyio.to_thread.run_sync(lambda: down[0].start(wait=False))

    async def kill_gcs(self) -> None:
        head = self.rng.choice(self.heads)
        if head.gcs_pid is not None:
            head.kill_gcs()

    async def freeze(self) -> None:
        pid = self.rng.choice(self.heads).gcs_pid
        if pid is not None:
            kill(pid, signal.SIGSTOP)
            await anyio.sleep(self.rng.uniform(0.5, 5.0))
            kill(pid, signal.SIGCONT)

    async def kill_session(self) -> None:
        status = await self.daemon.status()
        if status["session"]:
            kill(status["session"]["pid"])

    async def ask(self) -> None:
        verb = self.rng.choice(["pause", "resume", "resume", "reconnect", "reconnect"])
        code, _ = await self.daemon.post(f"/api/{verb}")
        assert code in {200, 202, 409, 429}, (verb, code)

    async def change(self, seconds: float) -> None:
        """Do one thing after another, for so long."""
        actions: list[Callable[[], Any]] = [
            self.reload, self.reload, self.kill_head, self.start_head, self.start_head,
            self.start_head, self.kill_gcs, self.freeze, self.kill_session, self.ask, self.ask,
        ]  # fmt: skip
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            action = self.rng.choice(actions)
            self.done.append(action.__name__)
            await action()
            await anyio.sleep(self.rng.uniform(0.1, 4.0))

    async def watch(self) -> None:
        """Look ten times a second at what must never be."""
        while True:
            assert len(self.daemon.joined()) <= 1, self.done
            assert len(self.daemon.sessions()) <= 2, self.done  # one of them only stands by
            started = self.daemon.ray_processes()
            allowed = time.monotonic() < self.may_start_until_s
            assert allowed or not started, (self.done, started)
            await self.daemon.status()
            await anyio.sleep(0.1)


def _toml(value: bool) -> str:
    return str(value).lower()


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("seed", "seconds"), [(1, 45.0), pytest.param(2, 600.0, marks=pytest.mark.long)]
)
async def test_random_changes_lead_to_nothing_illegal(
    tmp_path: Path, seed: int, seconds: float
) -> None:
    """Every path of states is legal, no session is leaked, nothing is started without leave."""
    with ray_head() as one, ray_head() as two:
        async with running_daemon(config='[ray]\ndiscovery = ["file"]\n' + BASE) as daemon:
            world = World(daemon, [one, two], seed, tmp_path / "addresses")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.watch)
                await world.change(seconds)
                await _mended(world)
                tasks.cancel_scope.cancel()
            await _legal(daemon)


async def _mended(world: World) -> None:
    """Let both clusters be there: the attachment comes back, whatever went before."""
    for head in world.heads:
        head.kill()
        await anyio.to_thread.run_sync(head.start)
    addresses = [head.address for head in world.heads]
    config = f'[ray]\naddress = {addresses}\ndiscovery = ["file"]\n'
    (world.daemon.folder / "castrayd.toml").write_text(config + BASE)
    world.may_start_until_s = min(world.may_start_until_s, time.monotonic() + TAKEN_AWAY_S)
    code, reply = await world.daemon.post("/api/reload")
    assert code == 200, reply
    await world.daemon.post("/api/resume")
    status = await world.daemon.wait_state("connected", 60)
    assert status["address"]["url"] in addresses


async def _legal(daemon: Daemon) -> None:
    """The states that were told follow each other by the table, and no sequence number is lost."""
    events = await daemon.events()
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    changes = [event for event in events if event["name"] == "castray.state.changed"]
    state = changes[0]["from"]
    for change in changes:
        assert change["from"] == state
        assert (change["from"], change["to"]) in EDGES
        state = change["to"]
