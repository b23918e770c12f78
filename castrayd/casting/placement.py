"""One wanted casting node made where it belongs, adopted, moved or removed.

By the name on the cluster may be one that is another's, one that does not answer, or one that is
in the wrong place; each case is here. How often to look, and what is wanted, is for `nodes`.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from castrayd.casting.link import Link
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.sightings import Sightings
from castrayd.casting.wanted import Wanted, WantedNode, choose
from castrayd.core.cluster import Node
from castrayd.refusals import ApiError, RecipientError, RecipientErrorType
from castrayd.supervisor.attachment import Attachment

__all__ = ("Placement",)


class _NotPlacedError(Exception):
    """Raised with the reason for which a node is not there for now."""


class Placement:
    """Brings the cluster in step with what is wanted, one node at a time."""

    def __init__(
        self,
        link: Link,
        wanted: Wanted,
        seen: Sightings,
        policy: Callable[[], CastingPolicy],
    ) -> None:
        self._link = link
        self._wanted = wanted
        self._seen = seen
        self._policy = policy

    async def tend(self, attachment: Attachment, one: WantedNode) -> None:
        """See that a node is as it is wanted, and note what was seen; raises nothing of Ray's."""
        try:
            if one.wanted:
                await self._keep(attachment, one)
            else:
                await self.clear(one)
        except (RecipientError, ApiError) as error:
            self._seen.note(one.name, None, error.message)
        except _NotPlacedError as error:
            self._seen.note(one.name, None, str(error))

    async def clear(self, one: WantedNode) -> None:
        """Remove what is wanted no more, unless it has become another's or is on another cluster.

        Raises `RecipientError`, `ApiError` where it cannot be removed now.
        """
        here = self._link.attachment().attached.facts.cluster_id
        if here is not None and one.cluster_id not in {None, here}:
            return  # it lives on, there; it is removed when that cluster is attached again
        actor_id = one.actor_id or await self._own(one.name)
        if actor_id is not None:
            await self._link.remove(one.name, actor_id)
        await self._wanted.forget(one.name)
        self._seen.forget(one.name)

    async def _own(self, name: str) -> str | None:
        """Return the id of the actor of that name, if there is one and it is this daemon's."""
        try:
            facts = await self._link.describe(name)
        except RecipientError as error:
            if error.type is RecipientErrorType.UNREACHABLE:
                return None
            raise
        own: str = facts["actor_id"]
        return own if facts["owner"] == self._link.daemon_id else None

    async def _keep(self, attachment: Attachment, one: WantedNode) -> None:
        if self._seen.of(one.name).facts is not None:
            await self._ask(one.name)
            return
        node = self._place_for(attachment, one)
        facts = await self._placed(attachment, one, node.node_id)
        node = attachment.nodes.get(facts["node_id"], node)  # one that is adopted may be elsewhere
        placed = msgspec.structs.replace(
            one,
            cluster_id=attachment.attached.facts.cluster_id,
            node_id=facts["node_id"],
            address=node.address,
            hostname=node.hostname,
            actor_id=facts["actor_id"],
        )
        await self._wanted.change(one, placed)
        self._seen.note(one.name, facts, facts["reason"])

    async def _ask(self, name: str) -> None:
        """Ask a node that was ready how it is."""
        try:
            facts = await self._link.describe(name)
        except RecipientError as error:
            if error.type is not RecipientErrorType.TIMED_OUT or self._seen.of(name).misses:
                raise
            self._seen.miss(name)
        else:
            self._seen.note(name, facts, facts["reason"])

    def _place_for(self, attachment: Attachment, one: WantedNode) -> Node:
        """Return the Ray node on which it belongs."""
        if self._link.astray and not self._policy().follow:
            raise _NotPlacedError("attached to another cluster than the wanted one")
        facts = attachment.attached.facts
        nodes = attachment.nodes.values()
        node = choose(one, nodes, own=facts.node_id, cluster=facts.cluster_id)
        if isinstance(node, str):
            raise _NotPlacedError(node)
        return node

    async def _placed(
        self, attachment: Attachment, one: WantedNode, node_id: str
    ) -> Mapping[str, Any]:
        """Make it there, or adopt the one that is there; returns what it says of itself."""
        try:
            facts = await self._link.place(self._spec(one, node_id, attachment))
        except RecipientError:
            # of its name there is one that does not answer, and its host may be gone for good
            if one.actor_id is not None and one.node_id != node_id:
                await self._link.remove(one.name, one.actor_id)
            raise
        if facts["owner"] != self._link.daemon_id:
            raise _NotPlacedError(f"the name is taken by daemon {facts['owner']}")
        if facts["node_id"] != node_id and one.node_id is not None:
            await self._link.remove(
                one.name, facts["actor_id"]
            )  # it is made where it belongs at the next look
            raise _NotPlacedError("it is being moved")
        return facts

    def _spec(self, one: WantedNode, node_id: str, attachment: Attachment) -> dict[str, Any]:
        """Return what an actor is made of."""
        node, policy = attachment.nodes[node_id], self._policy()
        return {
            "name": one.name,
            "owner": self._link.daemon_id,
            "made": uuid.uuid4().hex,
            "required": one.required,
            "namespace": attachment.attached.connection.namespace,
            "node_id": node_id,
            "address": node.address,
            "hostname": node.hostname,
            "port": one.port,
            "data_dir": policy.data_dir,
            "inbox_capacity": policy.inbox_messages,
            "dedupe_window": policy.dedupe_messages,
            "disk_reserve": policy.disk_reserve_bytes,
            "roots": {name: dict(root) for name, root in policy.roots.items()},
        }

    def hidden(self, name: str, node_id: str, roots: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a node of no public name is made of, that has these roots alone."""
        one = WantedNode(name, required=False)
        return self._spec(one, node_id, self._link.attachment()) | {"roots": roots}
