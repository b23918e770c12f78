"""A daemon's casting nodes on clusters that a test holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio

from castrayd.casting.nodes import CastingNodes
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.records import Records
from castrayd.casting.wanted import WantedNode, Where
from castrayd.core.cluster import Node
from castrayd.ledger import Ledger
from castrayd.refusals import RecipientError
from castrayd.telemetry.facts import Fact

__all__ = ("ME", "OTHER", "Actor", "Placing", "until")

ME, OTHER = "m" * 32, "o" * 32


class Actor:
    """What has a name."""

    def __init__(self, actor_id: str, spec: dict[str, Any]) -> None:
        self.actor_id, self.spec = actor_id, spec
        self.is_silent, self.sending = False, 0


class _Link:
    """A cluster, as this daemon reaches it."""

    daemon_id = ME
    hidden = f"_{ME[:16]}-"
    astray = False

    def __init__(self) -> None:
        self.born_silent: set[str] = set()
        self.slow_s = 0.0
        self.clusters: dict[str, dict[str, Actor]] = {"c1": {}, "c2": {}}
        self.made = self.asked = 0
        self.attached: Any = None

    def attach(self, cluster: str) -> dict[str, Actor]:
        hosts = [
            Node(f"{cluster}-{n}", alive=True, address=f"10.0.0.{n}", hostname=f"h{n}", port=1,
                 head=n == 1)
            for n in (1, 2)
        ]  # fmt: skip
        self.attached = SimpleNamespace(
            nodes={node.node_id: node for node in hosts},
            attached=SimpleNamespace(
                facts=SimpleNamespace(cluster_id=cluster, node_id=hosts[0].node_id),
                connection=SimpleNamespace(namespace="castray"),
            ),
            report=lambda _report: None,
        )
        return self.actors

    @property
    def actors(self) -> dict[str, Actor]:
        return self.clusters[self.attached.attached.facts.cluster_id]

    def find(self) -> Any:
        return self.attached

    attachment = find

    def put(self, name: str, owner: str, **more: Any) -> Actor:
        self.made += 1
        spec = {"name": name, "owner": owner, "node_id": "c1-1", "required": False,
                "made_of": "?", "address": "", "hostname": "", **more}  # fmt: skip
        self.actors[name] = Actor(f"a{self.made}", spec)
        self.actors[name].is_silent = name in self.born_silent
        return self.actors[name]

    async def names(self) -> list[str]:
        return sorted(self.actors)

    async def make(self, spec: dict[str, Any]) -> dict[str, Any]:
        await anyio.sleep(self.slow_s)
        is_new = spec["name"] not in self.actors
        actor = self.put(**spec) if is_new else self.actors[spec["name"]]
        return {"actor_id": actor.actor_id, "is_new": is_new}

    async def describe(self, name: str, timeout_s: float = 3.0) -> dict[str, Any]:
        self.asked += 1
        actor = self.actors.get(name)
        if actor is None:
            raise RecipientError("unreachable", "there is no such casting node")
        with anyio.move_on_after(timeout_s / 10):
            while actor.is_silent:
                await anyio.sleep(0.01)
        if actor.is_silent:
            raise RecipientError("timed_out", "no answer in time")
        facts = {"actor_id": actor.actor_id, "sending": actor.sending, "port": None, "roots": {},
                 "reason": None, "inbox": None}  # fmt: skip
        return {**actor.spec, **facts}

    async def remove(self, name: str, actor_id: str | None) -> bool:
        actor = self.actors.get(name)
        if actor is None or actor_id not in {None, actor.actor_id}:
            return False
        del self.actors[name]
        return True


class Placing:
    """Its casting nodes, and what they are asked by."""

    def __init__(self, ledger: Ledger) -> None:
        self.link = _Link()
        self.in_use: set[str] = set()
        self.told: list[Fact] = []
        self.policy = CastingPolicy("/data", 10, 10, {}, 1, 1.0, None, follow=True, patience_s=1.0)
        self.ledger = ledger
        self.nodes = self.again()

    def again(self) -> CastingNodes:
        """Start anew, with the same ledger."""
        made = CastingNodes(
            cast("Any", self.link), Records(self.ledger),
            cast("Any", SimpleNamespace(publish=self.told.append)),
            lambda: self.policy, lambda: self.in_use,
        )  # fmt: skip
        made.restore()
        return made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.nodes.run)
            yield
            tasks.cancel_scope.cancel()

    async def created(self, name: str) -> Actor:
        made = await self.nodes.create(name, Where(), None, required=False)
        assert made.state == "ready", made
        return self.link.actors[name]

    def row(self, name: str) -> WantedNode | None:
        rows = {one.name: one for one in Records(self.ledger).all(WantedNode)}
        return rows.get(name)


async def until(is_so: Any) -> None:
    """Wait until it is so."""
    with anyio.fail_after(5):
        while not is_so():
            await anyio.sleep(0.01)
