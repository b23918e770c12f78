"""Casting nodes kept as they are wanted: made, adopted, watched, made again, removed.

`run` looks every few seconds, and at once when something is wanted or the attachment is new. What
it sees is the truth that the API shows; what is wanted is in the ledger before anybody is told so.
"""

import contextlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

import anyio
import msgspec
import structlog

from castrayd.casting.documents import CastingNodeDocument
from castrayd.casting.link import Link
from castrayd.casting.records import Records
from castrayd.casting.targets import Known
from castrayd.casting.uploads import HIDDEN
from castrayd.casting.wanted import WantedNode, Where, choose
from castrayd.core.health import Check, CheckReport
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType
from castrayd.supervisor.attachment import Attachment
from castrayd.telemetry.facts import CasterLost, CasterReady
from castrayd.telemetry.publisher import Publisher

__all__ = ("CastingNodes", "CastingPolicy")

LOOK_S: Final = 2.0
PLACE_S: Final = 20.0
"""A first actor on a node waits for its worker process: a second or two, more on a busy host."""
ASK_S: Final = 3.0
AT_ONCE: Final = 8
FOREIGN_S: Final = 2.0
"""How old what is known of others' nodes may be."""

log = structlog.get_logger("castrayd.casting")


@dataclass(frozen=True, slots=True)
class CastingPolicy:
    """What the settings say of casting."""

    data_dir: str
    """On each host, `~` is the home of the raylet's user there."""
    inbox_messages: int
    dedupe_messages: int
    roots: Mapping[str, Mapping[str, Any]]
    upload_bytes: int
    upload_s: float
    disk_reserve_bytes: int | None
    follow: bool
    """Whether wanted nodes are made on another cluster than the wanted one, too."""
    patience_s: float
    """How long a transfer waits for a sender or a recipient that does not answer."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of a node last."""

    facts: Mapping[str, Any] | None = None
    reason: str | None = None
    was_ready: bool = False
    misses: int = 0
    """Answers in a row that did not come in time; one is noise on a busy host."""


class CastingNodes:
    """All casting nodes that this daemon knows; its own by heart, others' by asking."""

    def __init__(
        self,
        link: Link,
        records: Records,
        publisher: Publisher,
        policy: Callable[[], CastingPolicy],
    ) -> None:
        self._link = link
        self._records = records
        self._publisher = publisher
        self._daemon_id = link.daemon_id
        self._policy = policy
        self._wanted: dict[str, WantedNode] = {}
        self._seen: dict[str, _Seen] = {}
        self._foreign: dict[str, Mapping[str, Any]] = {}
        self._foreign_s = float("-inf")
        self._attachment: Attachment | None = None
        self._turn = anyio.Lock()
        self._due = anyio.Event()

    def restore(self) -> None:
        """Read what is wanted from the ledger; once, before anything else."""
        self._wanted = {one.name: one for one in self._records.all(WantedNode)}

    async def run(self) -> None:
        """Keep the nodes as they are wanted, until cancelled."""
        while True:
            with anyio.move_on_after(LOOK_S):
                await self._due.wait()
            self._due = anyio.Event()
            try:
                await self.look()
            except (RecipientError, ApiError) as error:
                message = f"a look at the casting nodes was cut short: {error}"
                log.debug(message)
            except Exception as error:
                log.error("a look at the casting nodes failed by a bug", exc_info=error)

    async def look(self) -> None:
        """Look at every wanted node once, and mend what is not as it should be."""
        attachment = self._link.find()
        if attachment is not self._attachment:
            self._attachment = attachment
            self._foreign, self._foreign_s = {}, float("-inf")
            self._seen = {
                name: replace(seen, facts=None, reason="not attached")
                for name, seen in self._seen.items()
            }
        if attachment is None:
            return
        limit = anyio.Semaphore(AT_ONCE)
        async with self._turn, anyio.create_task_group() as tasks:
            for one in tuple(self._wanted.values()):
                tasks.start_soon(self._tend, attachment, one, limit)
        self._report(attachment)

    async def _tend(self, attachment: Attachment, one: WantedNode, limit: anyio.Semaphore) -> None:
        async with limit:
            try:
                if one.wanted:
                    await self._keep(attachment, one)
                else:
                    await self._clear(one)
            except (RecipientError, ApiError) as error:
                self._note(one.name, None, error.message)

    async def _clear(self, one: WantedNode) -> None:
        """Remove what is wanted no more, unless it has become another's."""
        with contextlib.suppress(RecipientError):
            described = await self._link.call(one.name, "describe", timeout_s=ASK_S)
            if described["owner"] != self._daemon_id:
                return await self._forget(one.name)
        await self._link.remove(one.name, ASK_S)
        await self._forget(one.name)
        return None

    async def _forget(self, name: str) -> None:
        await self._records.delete(WantedNode, name)
        self._wanted.pop(name, None)
        self._seen.pop(name, None)

    async def _keep(self, attachment: Attachment, one: WantedNode) -> None:
        """See that a wanted node is there; make it where it is not."""
        seen = self._seen.get(one.name, _Seen())
        if seen.facts is not None:
            try:
                facts = await self._link.call(one.name, "describe", timeout_s=ASK_S)
            except RecipientError as error:
                if error.type is not RecipientErrorType.TIMED_OUT or seen.misses:
                    raise
                self._seen[one.name] = replace(seen, misses=1)
            else:
                self._note(one.name, facts, facts["reason"])
            return
        if not self._may_make():
            self._note(one.name, None, "attached to another cluster than the wanted one")
            return
        facts_of = attachment.attached.facts
        node = choose(
            one,
            attachment.nodes.values(),
            own=facts_of.node_id,
            cluster=facts_of.cluster_id,
        )
        if isinstance(node, str):
            self._note(one.name, None, node)
            return
        await self._place(attachment, one, node.node_id)

    def _may_make(self) -> bool:
        return self._policy().follow or not self._link.astray

    async def _place(self, attachment: Attachment, one: WantedNode, node_id: str) -> None:
        node = attachment.nodes[node_id]
        try:
            facts = await self._link.place(self._spec(one, node_id, attachment), PLACE_S)
        except RecipientError:
            # of its name there is one that does not answer, and its host may be gone for good
            if one.node_id is not None and one.node_id != node_id:
                await self._link.remove(one.name, ASK_S)
            raise
        if facts["owner"] != self._daemon_id:
            self._note(one.name, None, f"the name is taken by daemon {facts['owner']}")
            return
        if facts["node_id"] != node_id and one.node_id is not None:
            await self._link.remove(one.name, ASK_S)  # it is made where it belongs at the next look
            self._note(one.name, None, "it is being moved")
            return
        placed = msgspec.structs.replace(
            one,
            cluster_id=attachment.attached.facts.cluster_id,
            node_id=facts["node_id"],
            address=node.address,
            hostname=node.hostname,
        )
        if placed != one and self._wanted.get(one.name) is one:
            await self._records.put(WantedNode, one.name, placed)
            self._wanted[one.name] = placed
        self._note(one.name, facts, facts["reason"])

    def _spec(self, one: WantedNode, node_id: str, attachment: Attachment) -> dict[str, Any]:
        """Return what an actor is made of."""
        node, policy = attachment.nodes[node_id], self._policy()
        return {
            "name": one.name,
            "owner": self._daemon_id,
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

    def upload_limits(self) -> tuple[int, float]:
        """Return the bytes that uploads may take together, and the seconds that each stays."""
        return self._policy().upload_bytes, self._policy().upload_s

    def _note(self, name: str, facts: Mapping[str, Any] | None, reason: str | None) -> None:
        """Take in what was seen of a node; tell what has changed."""
        before = self._seen.get(name, _Seen())
        ready = facts is not None
        self._seen[name] = _Seen(facts, reason, before.was_ready or ready)
        if facts is not None and before.facts is None:
            self._publisher.publish(CasterReady(name, facts["node_id"], facts["address"]))
        elif not ready and (before.facts is not None or before.reason != reason):
            self._publisher.publish(CasterLost(name, reason or "unknown"))

    def _report(self, attachment: Attachment) -> None:
        """Tell the attachment which required nodes are missing."""
        missing = [
            one.name
            for one in self._wanted.values()
            if one.wanted and one.required and self._seen.get(one.name, _Seen()).facts is None
        ]
        fault = None
        if missing:
            reasons = {self._seen.get(name, _Seen()).reason or "not made yet" for name in missing}
            message = f"{', '.join(sorted(missing))}: {'; '.join(sorted(reasons))}"
            fault = Fault.of(ErrorType.CASTERS_MISSING, Phase.ATTACHED, message)
        attachment.report(CheckReport(Check.CASTERS, fault))

    # --- what the API asks ---

    async def create(
        self, name: str, where: Where, port: int | None, *, required: bool
    ) -> CastingNodeDocument:
        """Want a node, durably, and make it where a cluster is attached.

        Raises `ApiError`: `name_taken`, naming the owner; `conflict` where it is wanted already.
        """
        async with self._turn:
            known = self._wanted.get(name)
            if known is not None and known.wanted:
                message = f"{name} exists already, and is owned by this daemon"
                raise ApiError(ApiErrorType.CONFLICT, message, field="name")
            owner = await self._owner_of(name)
            if owner not in {None, self._daemon_id}:
                raise _taken(name, str(owner))
            one = WantedNode(name, where, port, required)
            await self._records.put(WantedNode, name, one)
            self._wanted[name] = one
            self._seen.pop(name, None)
            attachment = self._link.find()
            if attachment is not None:
                await self._tend(attachment, one, anyio.Semaphore(1))
                self._report(attachment)
        return self.document(name)

    async def _owner_of(self, name: str) -> str | None:
        """Return who owns a node of that name on the cluster; None where there is none."""
        if self._link.find() is None:
            return None
        try:
            described = await self._link.call(name, "describe", timeout_s=ASK_S)
        except (RecipientError, ApiError):
            return None
        return str(described["owner"])

    async def delete(self, name: str) -> None:
        """Want a node no more, durably, and remove it where a cluster is attached.

        Raises `ApiError`: `not_found`; `name_taken` where another daemon owns it.
        """
        async with self._turn:
            known = self._wanted.get(name)
            if known is None or not known.wanted:
                owner = await self._owner_of(name)
                if owner is None:
                    raise _unknown(name)
                if owner != self._daemon_id:
                    raise _taken(name, owner)
                known = WantedNode(name)  # ours, of a ledger that is lost
            unwanted = msgspec.structs.replace(known, wanted=False)
            await self._records.put(WantedNode, name, unwanted)
            self._wanted[name] = unwanted
            self._seen.pop(name, None)
            if self._link.find() is not None:
                with contextlib.suppress(RecipientError, ApiError):
                    await self._clear(unwanted)
            elif unwanted.node_id is None:
                await self._forget(name)
        self._due.set()

    async def demo(self, count: int) -> None:
        """Want `demo_node_1` to `demo_node_N`, spread over the cluster, each with a UDP port."""
        for number in range(count):
            name = f"demo_node_{number + 1}"
            if name not in self._wanted:
                one = WantedNode(name, Where(spread=number), port=0)
                await self._records.put(WantedNode, name, one)
                self._wanted[name] = one
        self._due.set()

    async def all(self) -> list[CastingNodeDocument]:
        """Return every casting node of the namespace, this daemon's own first."""
        await self._learn()
        own = [self.document(name) for name in sorted(self._wanted) if self._wanted[name].wanted]
        return own + [_described(facts) for _, facts in sorted(self._foreign.items())]

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
        if name in self._wanted and self._wanted[name].wanted:
            return self.document(name)
        await self._learn()
        if name not in self._foreign:
            raise _unknown(name)
        return _described(self._foreign[name])

    async def _learn(self) -> None:
        """Ask for the nodes of other daemons, unless that was done a moment ago."""
        if self._link.find() is None or monotonic() - self._foreign_s < FOREIGN_S:
            return
        try:
            names = await self._link.names(ASK_S)
        except (RecipientError, ApiError):
            return
        found: dict[str, Mapping[str, Any]] = {}

        async def ask(name: str) -> None:
            with contextlib.suppress(RecipientError, ApiError):
                found[name] = await self._link.call(name, "describe", timeout_s=ASK_S)

        async with anyio.create_task_group() as tasks:
            for name in names:
                if name not in self._wanted and not name.startswith(HIDDEN):
                    tasks.start_soon(ask, name)
        self._foreign = found
        self._foreign_s = monotonic()

    def document(self, name: str) -> CastingNodeDocument:
        """Return a wanted node as it was seen last."""
        one, seen = self._wanted[name], self._seen.get(name, _Seen())
        facts = seen.facts
        if facts is not None:
            return _described(facts)
        return CastingNodeDocument(
            name=name,
            owner=self._daemon_id,
            state="lost" if seen.was_ready else "pending",
            required=one.required,
            ray_node_id=one.node_id,
            address=one.address,
            hostname=one.hostname,
            port=None,
            reason=seen.reason or "no cluster is attached",
        )

    def on(self, ray_node_id: str) -> tuple[str, ...]:
        """Return the names of the casting nodes that are on a Ray node."""
        own = {n: s.facts for n, s in self._seen.items() if s.facts is not None}
        every: dict[str, Mapping[str, Any]] = {**own, **self._foreign}
        return tuple(sorted(n for n, f in every.items() if f["node_id"] == ray_node_id))

    @property
    def counts(self) -> tuple[int, int]:
        """How many nodes are wanted, and how many of them are ready."""
        wanted = [name for name, one in self._wanted.items() if one.wanted]
        ready = sum(self._seen.get(name, _Seen()).facts is not None for name in wanted)
        return len(wanted), ready


def _described(facts: Mapping[str, Any]) -> CastingNodeDocument:
    return CastingNodeDocument(
        name=facts["name"],
        owner=facts["owner"],
        state="ready",
        required=facts["required"],
        ray_node_id=facts["node_id"],
        address=facts["address"],
        hostname=facts["hostname"],
        port=facts["port"],
        roots=facts["roots"],
        inbox=facts["inbox"],
        reason=facts["reason"],
    )


def _taken(name: str, owner: str) -> ApiError:
    message = f"{name} is owned by daemon {owner}"
    hint = "Choose another name, or ask that daemon."
    return ApiError(ApiErrorType.NAME_TAKEN, message, hint, "name")


def _unknown(name: str) -> ApiError:
    return ApiError(ApiErrorType.NOT_FOUND, f"no such casting node: {name}")
