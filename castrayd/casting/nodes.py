"""Casting nodes kept as they are wanted: asked for, watched, shown.

`run` looks every few seconds, and at once when something is wanted or the attachment is new. What
it sees is the truth that the API shows. How one node is made is in `placement`.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import anyio
import msgspec
import structlog

from castrayd.casting.documents import CastingNodeDocument, PurgeDocument
from castrayd.casting.link import Link
from castrayd.casting.others import Others
from castrayd.casting.placement import Placement
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.records import Records
from castrayd.casting.sightings import Sightings
from castrayd.casting.targets import Known
from castrayd.casting.wanted import Wanted, WantedNode, Where
from castrayd.core.health import Check, CheckReport
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.refusals import ApiError, ApiErrorType, RecipientError
from castrayd.supervisor.attachment import Attachment
from castrayd.telemetry.publisher import Publisher

__all__ = ("CastingNodes",)

LOOK_S: Final = 2.0
AT_ONCE: Final = 8

log = structlog.get_logger("castrayd.casting")


class CastingNodes:
    """All casting nodes that this daemon knows; its own by heart, others' by asking."""

    def __init__(
        self,
        link: Link,
        records: Records,
        publisher: Publisher,
        policy: Callable[[], CastingPolicy],
        in_use: Callable[[], set[str]],
    ) -> None:
        """`in_use` names the nodes that transfers need now, `link.hidden` for one of uploads."""
        self._link = link
        self._wanted = Wanted(records)
        self._seen = Sightings(publisher, link.daemon_id)
        self._in_use = in_use
        self._others = Others(link, self._wanted)
        self._placement = Placement(link, self._wanted, self._seen, policy, in_use)
        self._attachment: Attachment | None = None
        self._turns: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._due = anyio.Event()

    def restore(self) -> None:
        """Read what is wanted from the ledger; once, before anything else."""
        self._wanted.restore()

    async def hidden(self, name: str, node_id: str, roots: Mapping[str, Any]) -> None:
        """See that a node of no public name is there; see `Placement.hidden`."""
        await self._placement.hidden(name, node_id, roots)

    async def run(self) -> None:
        """Keep the nodes as they are wanted, and others' known, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._others.run, name="others")
            await self._keep()

    async def _keep(self) -> None:
        while True:
            with anyio.move_on_after(LOOK_S):
                await self._due.wait()
            self._due = anyio.Event()
            try:
                await self._look()
            except (RecipientError, ApiError) as error:
                message = f"a look at the casting nodes was cut short: {error}"
                log.debug(message)
            except Exception as error:
                log.error("a look at the casting nodes failed by a bug", exc_info=error)

    async def _look(self) -> None:
        """Look at every wanted node once, and mend what is not as it should be."""
        attachment = self._link.find()
        if attachment is not self._attachment:
            self._attachment = attachment
            self._seen.blind()
        if attachment is None:
            return
        await self._wanted.forget_old()
        limit = anyio.CapacityLimiter(AT_ONCE)

        async def tend(name: str) -> None:
            async with limit, self._turn(name):
                one = self._wanted.find(name)
                if one and attachment is self._link.find():  # others may have been waited for
                    await self._placement.tend(attachment, one)

        async with anyio.create_task_group() as tasks:
            for one in self._wanted.every():
                tasks.start_soon(tend, one.name)
        self._report(attachment)

    def _turn(self, name: str) -> anyio.Lock:
        """Return what is held by whoever sees to a node: that may wait long for its answer."""
        return self._turns.setdefault(name, anyio.Lock())

    def _report(self, attachment: Attachment) -> None:
        """Tell the attachment which required nodes are missing."""
        required = [one.name for one in self._wanted.all() if one.required]
        missing = [name for name in required if self._seen.of(name).facts is None]
        fault = None
        if missing:
            reasons = {self._seen.of(name).reason or "not made yet" for name in missing}
            message = f"{', '.join(missing)}: {'; '.join(sorted(reasons))}"
            fault = Fault.of(ErrorType.CASTERS_MISSING, Phase.ATTACHED, message)
        attachment.report(CheckReport(Check.CASTERS, fault))

    # --- what the API asks ---

    async def create(
        self, name: str, where: Where, port: int | None, *, required: bool
    ) -> CastingNodeDocument:
        """Want a node, durably, and make it where a cluster is attached.

        Raises `ApiError`: `name_taken`, naming the owner; `conflict` where it is wanted already.
        """
        async with self._turn(name):
            if self._wanted.get(name):
                message = f"{name} exists already, and is owned by this daemon"
                raise ApiError(ApiErrorType.CONFLICT, message, field="name")
            owner = await self._others.owner_of(name)
            if owner not in {None, self._link.daemon_id}:
                raise _taken(name, str(owner))
            await self._wanted.put(WantedNode(name, where, port, required))
            self._seen.forget(name)
            attachment = self._link.find()
            if attachment is not None:
                await self._placement.tend(attachment, self._known(name))
                self._report(attachment)
            return self._seen.document(self._known(name))

    def _known(self, name: str) -> WantedNode:
        """Return a node that is wanted. Raises `ApiError` (`not_found`)."""
        one = self._wanted.get(name)
        if one is None:
            raise _unknown(name)
        return one

    async def delete(self, name: str) -> None:
        """Want a node no more, durably, and remove it where a cluster is attached.

        Raises `ApiError`: `not_found`; `name_taken` where another daemon owns it.
        """
        async with self._turn(name):
            known = self._wanted.get(name) or await self._lost(name)
            now = time.time()  # noqa: TID251  over restarts
            unwanted = msgspec.structs.replace(known, wanted=False, unwanted_at=now)
            await self._wanted.put(unwanted)
            self._seen.forget(name)
            attachment = self._link.find()
            if attachment is not None:
                with contextlib.suppress(RecipientError, ApiError):
                    await self._placement.clear(attachment, unwanted)
            elif unwanted.node_id is None:
                await self._wanted.forget(name)
        self._due.set()

    async def purge(self) -> PurgeDocument:
        """Remove all of this daemon's nodes, those of no public name too.

        Raises `ApiError`: `not_connected`; `conflict` while an upload is being sent, for its node
        would be made again; `busy` where the cluster does not tell what there is.
        """
        self._link.attachment()
        self._refuse_while_uploads_are_sent()
        mine = [one.name for one in await self.all() if one.owner == self._link.daemon_id]
        for name in mine:
            with contextlib.suppress(ApiError):  # another one was quicker
                await self.delete(name)
        self._refuse_while_uploads_are_sent()  # one may have been accepted meanwhile
        try:
            hidden = await self._placement.clear_hidden()
        except RecipientError as error:
            message = f"the cluster does not answer: {error.message}"
            raise ApiError(ApiErrorType.BUSY, message) from error
        left = [one.name for one in self._wanted.every()]
        return PurgeDocument([name for name in (*hidden, *mine) if name not in left], left)

    def _refuse_while_uploads_are_sent(self) -> None:
        if self._link.hidden in self._in_use():
            message, hint = "an upload is being sent", "Wait for its transfer, or cancel it."
            raise ApiError(ApiErrorType.CONFLICT, message, hint)

    async def _lost(self, name: str) -> WantedNode:
        """Return a node of ours that the ledger has lost. Raises `ApiError` as `delete` does."""
        owner = await self._others.owner_of(name)
        if owner is None:
            raise _unknown(name)
        if owner != self._link.daemon_id:
            raise _taken(name, owner)
        cluster_id = self._link.attachment().attached.facts.cluster_id
        return WantedNode(name, cluster_id=cluster_id)

    async def demo(self, count: int) -> None:
        """Want `demo_node_1` to `demo_node_N`, spread over the cluster, each with a UDP port."""
        for number in range(count):
            name = f"demo_node_{number + 1}"
            if name not in self._wanted:
                await self._wanted.put(WantedNode(name, Where(spread=number), port=0))
        self._due.set()

    async def all(self) -> list[CastingNodeDocument]:
        """Return every casting node of the namespace, this daemon's own first."""
        await self._others.filled()
        own = [self._seen.document(one) for one in self._wanted.all()]
        return own + [CastingNodeDocument.ready(facts) for _, facts in sorted(self._foreign())]

    def _foreign(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return what is known of nodes that are not of our wanting."""
        return [(name, f) for name, f in self._others.known.items() if name not in self._wanted]

    async def known(self) -> list[Known]:
        """Return who can be meant by `all`: what is ready now, of every owner."""
        nodes = attachment.nodes if (attachment := self._link.find()) else {}
        found = []
        for one in await self.all():
            node = nodes.get(one.ray_node_id or "")
            if one.state == "ready":
                found.append(Known(one.name, node.labels if node else {}))
        return found

    async def show(self, name: str) -> CastingNodeDocument:
        """Return one node. Raises `ApiError` (`not_found`)."""
        one = self._wanted.get(name)
        if one is not None:
            return self._seen.document(one)
        facts = self._others.known.get(name) or await self._others.ask(name)
        if facts is None or name in self._wanted:
            raise _unknown(name)
        return CastingNodeDocument.ready(facts)

    def on(self, ray_node_id: str) -> tuple[str, ...]:
        """Return the names of the casting nodes that are on a Ray node."""
        every: dict[str, Mapping[str, Any]] = {**self._seen.ready(), **dict(self._foreign())}
        return tuple(sorted(n for n, f in every.items() if f["node_id"] == ray_node_id))

    @property
    def counts(self) -> tuple[int, int]:
        """How many nodes are wanted, and how many of them are ready."""
        wanted = self._wanted.all()
        return len(wanted), sum(self._seen.of(one.name).facts is not None for one in wanted)


def _taken(name: str, owner: str) -> ApiError:
    message = f"{name} is owned by daemon {owner}"
    hint = "Choose another name, or ask that daemon."
    return ApiError(ApiErrorType.NAME_TAKEN, message, hint, "name")


def _unknown(name: str) -> ApiError:
    return ApiError(ApiErrorType.NOT_FOUND, f"no such casting node: {name}")
