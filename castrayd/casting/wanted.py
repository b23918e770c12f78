"""The casting nodes that this daemon wants, as the ledger keeps them, and where each belongs."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from castrayd.casting.records import Records
from castrayd.core.cluster import Node

__all__ = ("Wanted", "WantedNode", "Where", "choose")

FORGOTTEN_S: Final = 30 * 86400.0
"""After which one that is to be removed is no longer waited for: its cluster is gone."""


class Where(Struct, frozen=True, omit_defaults=True):
    """Where a casting node is wanted; nothing at all means this daemon's own host."""

    node_id: str | None = None
    address: str | None = None
    hostname: str | None = None
    labels: Mapping[str, str] | None = None
    spread: int | None = None
    """The how-manieth of several that are spread over the cluster's nodes."""

    def matches(self, node: Node) -> bool:
        """Whether a node of the cluster is such a place."""
        return (
            self.node_id in {None, node.node_id}
            and self.address in {None, node.address}
            and self.hostname in {None, node.hostname}
            and (self.labels or {}).items() <= node.labels.items()
        )


class WantedNode(Struct, frozen=True):
    """A casting node that is wanted, or one that is to be removed when its cluster is there."""

    name: str
    where: Where = Where()
    port: int | None = None
    required: bool = True
    wanted: bool = True
    cluster_id: str | None = None
    """Of the cluster that it was placed on last; None until it is placed."""
    node_id: str | None = None
    address: str | None = None
    hostname: str | None = None
    actor_id: str | None = None
    """Of the actor that we made there: whoever else has the name is another's."""
    unwanted_at: float = 0.0
    """Since when it is to be removed, in epoch seconds."""


class Wanted:
    """All of them by name, in the ledger before anybody is told so."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._nodes: dict[str, WantedNode] = {}

    def restore(self) -> None:
        """Read them from the ledger; once, before anything else."""
        self._nodes = {one.name: one for one in self._records.all(WantedNode)}

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def every(self) -> tuple[WantedNode, ...]:
        """Return all, those too that are to be removed."""
        return tuple(self._nodes.values())

    def all(self) -> list[WantedNode]:
        """Return those that are to be there, by name."""
        return [one for _, one in sorted(self._nodes.items()) if one.wanted]

    def get(self, name: str) -> WantedNode | None:
        """Return one that is to be there; None where none of that name is."""
        one = self.find(name)
        return one if one is not None and one.wanted else None

    def find(self, name: str) -> WantedNode | None:
        """Return one, also if it is to be removed; None where none of that name is."""
        return self._nodes.get(name)

    async def put(self, one: WantedNode) -> None:
        """Keep one, durably, in the place of any of its name."""
        await self._records.put(WantedNode, one.name, one)
        self._nodes[one.name] = one

    async def change(self, one: WantedNode, to: WantedNode) -> WantedNode:
        """Keep `to` in the place of `one`, durably; returns `one` where nothing changes."""
        if to == one or self._nodes.get(one.name) is not one:
            return one
        await self.put(to)
        return to

    async def forget(self, name: str) -> None:
        """Forget one for good."""
        await self._records.delete(WantedNode, name)
        self._nodes.pop(name, None)

    async def forget_old(self) -> None:
        """Forget those that were to be removed, and whose cluster has not come back."""
        oldest = time.time() - FORGOTTEN_S  # noqa: TID251  over restarts
        for one in self.every():
            if not one.wanted and one.unwanted_at < oldest:
                await self.forget(one.name)


def choose(
    one: WantedNode, nodes: Iterable[Node], *, own: str | None, cluster: str | None
) -> Node | str:
    """Return the Ray node on which a casting node belongs, or why there is none.

    Where it was placed before it stays while that node lives. On a new cluster, or after its
    raylet was started anew, it goes to the host of the same name and address; one that was never
    placed goes where it is wanted.
    """
    alive = sorted((node for node in nodes if node.alive), key=lambda node: node.node_id)
    if one.node_id is not None:
        if cluster == one.cluster_id and (kept := _by_id(alive, one.node_id)):
            return kept
        home = [n for n in alive if (n.hostname, n.address) == (one.hostname, one.address)]
        home = home or [n for n in alive if n.hostname == one.hostname]
        if home:
            return _nearest(one, home)
        if one.where.spread is None:
            return f"no living node is {one.hostname} ({one.address})"
    return _fresh(one.where, alive, own)


def _fresh(where: Where, alive: Sequence[Node], own: str | None) -> Node | str:
    if not alive:
        return "no node is alive"
    if where.spread is not None:
        return alive[where.spread % len(alive)]
    if where == Where():
        return _by_id(alive, own) or next((n for n in alive if n.head), alive[0])
    found = next((node for node in alive if where.matches(node)), None)
    return found or "no living node is such a place"


def _nearest(one: WantedNode, home: Sequence[Node]) -> Node:
    """Of several nodes on the host prefer one that was asked for, then spread as before."""
    return home[(one.where.spread or 0) % len(home)]


def _by_id(nodes: Sequence[Node], node_id: str | None) -> Node | None:
    return next((node for node in nodes if node.node_id == node_id), None)
