"""One wanted casting node made where it belongs, adopted, replaced, moved or removed.

By the name on the cluster may be one that is another's, one that does not answer, or one that is
in the wrong place; each case is here. An actor's id tells which is ours, also where it is silent:
none is removed of which that is not known. How often to look, and what is wanted, is for `nodes`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from castrayd.casting.link import ASK_S, PLACE_S, Link
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.sightings import Sightings
from castrayd.casting.specs import Spec, placed, spec
from castrayd.casting.wanted import Wanted, WantedNode, choose
from castrayd.core.cluster import Node
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType
from castrayd.supervisor.attachment import Attachment

__all__ = ("Placement",)

Facts = Mapping[str, Any]
log = structlog.get_logger("castrayd.casting")


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
        in_use: Callable[[], set[str]],
    ) -> None:
        """`in_use` names the nodes that transfers need now."""
        self._link = link
        self._wanted = wanted
        self._seen = seen
        self._policy = policy
        self._in_use = in_use

    async def tend(self, attachment: Attachment, one: WantedNode) -> None:
        """See that a node is as it is wanted, and note what was seen.

        Raises nothing: it is tried again at the next look, and others are looked at beside it.
        """
        try:
            await (self._keep if one.wanted else self.clear)(attachment, one)
        except (RecipientError, ApiError) as error:
            self._missed(one, error.message)
        except _NotPlacedError as error:
            self._missed(one, str(error))
        except Exception as error:
            message = f"a look at casting node {one.name} failed by a bug"
            log.error(message, exc_info=error)
            self._missed(one, f"{type(error).__name__}: {error}")

    def _missed(self, one: WantedNode, reason: str) -> None:
        """Note why one that is wanted is not there."""
        if one.wanted:
            self._seen.note(one.name, None, reason)

    # --- one that is wanted no more ---

    async def clear(self, attachment: Attachment, one: WantedNode) -> None:
        """Remove what is wanted no more, and forget it; on another cluster it waits for its own.

        Raises `RecipientError`, `ApiError` where it cannot be removed now.
        """
        cluster = attachment.attached.facts.cluster_id
        if None not in {cluster, one.cluster_id} and cluster != one.cluster_id:
            return
        is_removed = await self._removed(one)
        if is_removed or one.cluster_id in {None, cluster}:
            await self._wanted.forget(one.name)

    async def _removed(self, one: WantedNode) -> bool:
        """Remove the actor that is ours, if there is one; returns whether there was."""
        if one.actor_id is not None and await self._link.remove(one.name, one.actor_id):
            return True
        if one.name not in await self._link.names():
            return False
        facts = await self._link.describe(one.name)
        is_ours = facts["owner"] == self._link.daemon_id
        return is_ours and await self._link.remove(one.name, facts["actor_id"])

    # --- one that is wanted ---

    async def _keep(self, attachment: Attachment, one: WantedNode) -> None:
        if self._seen.of(one.name).facts is None:
            await self._place(attachment, one)
            return
        try:
            facts = await self._link.describe(one.name)
        except RecipientError as error:
            if error.type is not RecipientErrorType.TIMED_OUT or self._seen.of(one.name).misses:
                raise
            self._seen.miss(one.name)
        else:
            self._refuse_anothers(facts)
            self._seen.note(one.name, facts, facts["reason"])
            await self._renew(attachment, one, facts)

    async def _renew(self, attachment: Attachment, one: WantedNode, facts: Facts) -> None:
        """Make it again where it is made of other settings, or other code, unless it is needed."""
        if not _is_outdated(self._spec(attachment, one), facts) or one.name in self._in_use():
            return
        try:
            self._place_for(attachment, one)
        except _NotPlacedError:
            return  # it is well where it is, and would be lost
        await self._link.remove(one.name, facts["actor_id"])
        await self._place(attachment, one)

    def _refuse_anothers(self, facts: Facts) -> None:
        if facts["owner"] != self._link.daemon_id:
            raise _NotPlacedError(f"the name is taken by daemon {facts['owner']}")

    async def _place(self, attachment: Attachment, one: WantedNode) -> None:
        """Make it where it belongs, or adopt the one that is there."""
        node = self._place_for(attachment, one)
        made = await self._link.make(placed(self._spec(attachment, one), node))
        if made["is_new"]:  # known to be ours before it can be asked
            one = await self._noted(attachment, one, node, made["actor_id"])
        facts = await self._told(one, node.node_id, made["actor_id"], is_new=made["is_new"])
        node = attachment.nodes.get(facts["node_id"], node)  # one that is adopted may be elsewhere
        await self._noted(attachment, one, node, facts["actor_id"])
        self._seen.note(one.name, facts, facts["reason"])

    async def _noted(
        self, attachment: Attachment, one: WantedNode, node: Node, actor_id: str
    ) -> WantedNode:
        """Keep where it is, durably."""
        there = msgspec.structs.replace(
            one,
            cluster_id=attachment.attached.facts.cluster_id,
            node_id=node.node_id,
            address=node.address,
            hostname=node.hostname,
            actor_id=actor_id,
        )
        return await self._wanted.change(one, there)

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

    async def _told(self, one: WantedNode, node_id: str, actor_id: str, *, is_new: bool) -> Facts:
        """Return what the one that is there says of itself, if it is ours and in its place."""
        is_elsewhere = one.actor_id == actor_id and one.node_id != node_id
        try:
            # one that was there before is asked again at the next look
            timeout_s = PLACE_S if is_new or is_elsewhere else ASK_S
            facts = await self._link.describe(one.name, timeout_s)
        except RecipientError:
            if is_elsewhere:  # ours, and its host may be gone for good
                await self._link.remove(one.name, actor_id)
            raise
        self._refuse_anothers(facts)
        if facts["node_id"] != node_id and one.node_id is not None:
            await self._link.remove(one.name, facts["actor_id"])
            raise _NotPlacedError("it is being moved")  # made where it belongs at the next look
        return facts

    def _spec(
        self, attachment: Attachment, one: WantedNode, roots: Mapping[str, Any] | None = None
    ) -> Spec:
        policy, namespace = self._policy(), attachment.attached.connection.namespace
        wanted = policy.roots if roots is None else roots
        return spec(one, self._link.daemon_id, namespace, policy, wanted)

    # --- one that nobody sees ---

    async def hidden(self, name: str, node_id: str, roots: Mapping[str, Any]) -> None:
        """See that a node of no public name is there, that has these roots alone.

        Raises `RecipientError`, `ApiError` (`conflict` where the Ray node is not there now, or
        the name is another's).
        """
        attachment = self._link.attachment()
        node = attachment.nodes.get(node_id)  # a head that has started anew knows few as yet
        if node is None or not node.alive:
            raise ApiError(ApiErrorType.CONFLICT, f"Ray node {node_id} is not on the cluster now")
        of = self._spec(attachment, WantedNode(name, required=False), roots)
        ready = placed(of, node)
        await self._link.make(ready)
        facts = await self._link.describe(name, PLACE_S)
        try:
            self._refuse_anothers(facts)
        except _NotPlacedError as error:
            raise ApiError(ApiErrorType.CONFLICT, f"{name}: {error}") from None
        if _is_outdated(of, facts) and await self._link.remove(name, facts["actor_id"]):
            await self._link.make(ready)
            await self._link.describe(name, PLACE_S)

    async def clear_hidden(self) -> list[str]:
        """Remove all such nodes of this daemon; returns their names. Raises `RecipientError`."""
        there = await self._link.names()
        hidden = [name for name in there if name.startswith(self._link.hidden)]
        for name in hidden:
            await self._link.remove(name, None)
        return hidden


def _is_outdated(of: Spec, facts: Facts) -> bool:
    """Whether a node is to be made again; not while others have it send a file."""
    return facts.get("made_of") != of["made_of"] and not facts.get("sending")
