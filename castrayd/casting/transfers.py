"""Transfers: files from one casting node, or an upload, to others.

The sender's actor does the work and goes on without us; here each transfer is kept, started on the
cluster, looked at, and started again where its sender, the session, this daemon or the cluster was
lost. What is accepted is in the ledger first.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final

import anyio
import msgspec
import structlog

from castrayd.casting.link import Link
from castrayd.casting.plans import ACTIVE, Part, Transfer, anew, merged, plan, sizes
from castrayd.casting.records import Records
from castrayd.casting.speed import Speed
from castrayd.casting.uploads import Uploads
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType
from castrayd.supervisor.documents import TransfersDocument
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.facts import TransferFinished, TransferProgress, TransferStarted
from castrayd.telemetry.publisher import Publisher

__all__ = ("Transfers",)

LOOK_S: Final = 0.25
TOLD_S: Final = 1.0
"""Between two events that tell how far a transfer is."""
ASK_S: Final = 10.0
KEPT: Final = 1000
"""Transfers that have ended, and are still shown."""
AT_ONCE: Final = 16
A_NODE: Final = 2
"""Transfers at once from one node, and to one."""

log = structlog.get_logger("castrayd.casting")


class Transfers:
    """All transfers of one daemon."""

    def __init__(  # noqa: PLR0913, PLR0917  the casting service names each part once
        self,
        link: Link,
        records: Records,
        uploads: Uploads,
        publisher: Publisher,
        clock: Clock,
        patience_s: Callable[[], float],
    ) -> None:
        """A sender that is not there for `patience_s`, while the cluster is, fails its transfer."""
        self._link = link
        self._records = records
        self._uploads = uploads
        self._publisher = publisher
        self._clock = clock
        self._patience_s = patience_s
        self._transfers: dict[str, Transfer] = {}
        self._speeds: dict[str, Speed] = {}
        self._told_s: dict[str, float] = {}
        self._gone_s: dict[str, float] = {}
        self._turn = anyio.Lock()
        self._due = anyio.Event()
        self.completed = self.failed = self.bytes = 0
        """Since the daemon's start; bytes are verified ones."""

    def restore(self) -> None:
        """Read the transfers from the ledger; once, before anything else."""
        found = sorted(self._records.all(Transfer), key=lambda one: one.created_at)
        self._transfers = {one.id: one for one in found}

    async def run(self) -> None:
        """Carry the transfers on until cancelled."""
        while True:
            if any(one.state in ACTIVE for one in self._transfers.values()):
                await anyio.sleep(LOOK_S)
            else:
                await self._due.wait()
            self._due = anyio.Event()
            try:
                await self._look()
            except Exception as error:
                log.error("a look at the transfers failed by a bug", exc_info=error)

    async def _look(self) -> None:
        """Start what may start, and ask how far each is."""
        under_way = [one for one in self._transfers.values() if one.state in ACTIVE]
        async with self._turn, anyio.create_task_group() as tasks:
            for one in _may_run(under_way):
                tasks.start_soon(self._tend, one)

    async def _tend(self, one: Transfer) -> None:
        try:
            self._link.attachment()
            after = await self._carried(one)
            self._gone_s.pop(one.id, None)
        except (RecipientError, ApiError) as error:
            after = self._interrupted(one, error)
        await self._settle(one, after)

    async def _carried(self, one: Transfer) -> Transfer:
        """Ask the sender how far it is; tell it what to do where it does not know."""
        sender, source = await self._source(one)
        if one.state != "queued":
            progress = await self._link.call(sender, "sending", one.id, timeout_s=ASK_S)
            if progress is not None:
                return merged(one, progress)
        planned, window = self._planned(anew(one))
        if planned != one:
            await self._records.put(Transfer, one.id, planned)  # chunks stay as they are cut
            self._transfers[one.id] = planned
        task = plan(planned, window, source, self._patience_s())
        progress = await self._link.call(sender, "send", task, timeout_s=ASK_S)
        if one.state == "queued":
            self._publisher.publish(
                TransferStarted(one.id, sender, [part.recipient for part in one.parts])
            )
        return merged(planned, progress)

    async def _source(self, one: Transfer) -> tuple[str, str]:
        """Return which node sends, and from which path."""
        if one.node is not None:
            return one.node, one.source
        return await self._uploads.sender(), f"uploads:{one.source}"

    def _planned(self, one: Transfer) -> tuple[Transfer, int]:
        nodes = self._link.attachment().nodes.values()
        stores = [n.resources.get("object_store_memory", 0.0) for n in nodes if n.alive]
        chunk, window = sizes((s for s in stores if s), one.bandwidth_bytes_s)
        if one.chunk_bytes is not None:
            return one, max(2, window * chunk // one.chunk_bytes)
        return msgspec.structs.replace(one, chunk_bytes=chunk), window

    def _interrupted(self, one: Transfer, error: RecipientError | ApiError) -> Transfer:
        """Note why it waits; a sender that is gone while the cluster is there ends it."""
        if isinstance(error, RecipientError) and error.type is RecipientErrorType.UNREACHABLE:
            since_s = self._gone_s.setdefault(one.id, monotonic())
            if monotonic() - since_s > self._patience_s():
                return _ended(one, "failed", f"the sender is gone: {error.message}")
        state = "queued" if one.state == "queued" else "interrupted"
        return msgspec.structs.replace(one, state=state, reason=error.message)

    async def _settle(self, before: Transfer, after: Transfer) -> None:
        """Take a transfer's new state in, durably where it is another one."""
        if after.state not in ACTIVE:
            after = msgspec.structs.replace(after, finished_at=self._clock.now())
        if after.state != before.state or after.state not in ACTIVE:
            await self._records.put(Transfer, after.id, after)
        self._transfers[after.id] = after
        verified = sum(p.bytes_verified for p in after.parts)
        self._speeds.setdefault(after.id, Speed()).add(monotonic(), verified)
        if after.state in ACTIVE:
            self._tell_progress(after)
        else:
            await self._finish(after)

    def _tell_progress(self, one: Transfer) -> None:
        now_s = monotonic()
        if now_s - self._told_s.get(one.id, 0.0) < TOLD_S:
            return
        self._told_s[one.id] = now_s
        speed, eta_s = self.speed(one)
        self._publisher.publish(
            TransferProgress(one.id, one.state, one.bytes_verified, one.bytes_total, speed, eta_s)
        )

    async def _finish(self, one: Transfer) -> None:
        self._speeds.pop(one.id, None)
        self._told_s.pop(one.id, None)
        self.bytes += one.bytes_verified
        if one.state == "done":
            self.completed += 1
        else:
            self.failed += 1
        outcomes = {
            part.recipient: part.error["type"] if part.error else part.state for part in one.parts
        }
        self._publisher.publish(
            TransferFinished(one.id, one.state, one.bytes_verified, one.sha256, outcomes)
        )
        over = [o for o in self._transfers.values() if o.state not in ACTIVE]
        for old in over[: max(0, len(over) - KEPT)]:
            await self._records.delete(Transfer, old.id)
            del self._transfers[old.id]

    # --- what the API asks ---

    async def create(  # noqa: PLR0913  a transfer has these
        self,
        node: str | None,
        source: str,
        recipients: Sequence[str],
        path: str,
        *,
        if_exists: str,
        bandwidth_bytes_s: int | None,
    ) -> Transfer:
        """Accept a transfer: it is in the ledger when this returns."""
        one = Transfer(
            uuid.uuid4().hex,
            self._clock.now(),
            node,
            source,
            path,
            tuple(Part(name) for name in recipients),
            if_exists,
            bandwidth_bytes_s,
        )
        if not recipients:
            one = msgspec.structs.replace(one, state="done", finished_at=one.created_at)
        await self._records.put(Transfer, one.id, one)
        self._transfers[one.id] = one
        self._due.set()
        return one

    def all(self) -> list[Transfer]:
        """Return every transfer that is known, the newest first."""
        return list(reversed(self._transfers.values()))

    def show(self, transfer_id: str) -> Transfer:
        """Return one. Raises `ApiError` (`not_found`)."""
        one = self._transfers.get(transfer_id)
        if one is None:
            raise ApiError(ApiErrorType.NOT_FOUND, f"no such transfer: {transfer_id}")
        return one

    def speed(self, one: Transfer) -> tuple[float | None, float | None]:
        """Return verified bytes a second of late, and the seconds that are left; None unknown."""
        found = self._speeds.get(one.id)
        rate = found.rate() if found and one.state == "running" else None
        if not rate or one.bytes_total is None:
            return rate, None
        going = sum(part.state in {"queued", "running"} for part in one.parts)
        done = sum(p.bytes_verified for p in one.parts if p.state in {"queued", "running"})
        return rate, max(0.0, (going * one.bytes_total - done) / rate)

    async def cancel(self, transfer_id: str) -> Transfer:
        """End a transfer for good, durably. Raises `ApiError`: `not_found`, `conflict`."""
        async with self._turn:
            one = self.show(transfer_id)
            if one.state not in ACTIVE:
                raise ApiError(ApiErrorType.CONFLICT, f"it is {one.state} already")
            over = _ended(one, "cancelled", None)
            over = msgspec.structs.replace(over, finished_at=self._clock.now())
            await self._records.put(Transfer, over.id, over)
            self._transfers[over.id] = over
        await self._tell_sender(over)
        await self._finish(over)
        return over

    async def _tell_sender(self, one: Transfer) -> None:
        """Have the sender stop; where it cannot be told, have the recipients forget the file."""
        try:
            sender, _ = await self._source(one)
            await self._link.call(sender, "cancel_sending", one.id, timeout_s=ASK_S)
        except (RecipientError, ApiError):
            async with anyio.create_task_group() as tasks:
                for part in one.parts:
                    tasks.start_soon(self._abandon, part.recipient, one.id)

    async def _abandon(self, name: str, transfer_id: str) -> None:
        try:
            await self._link.call(name, "file_abandon", transfer_id, timeout_s=ASK_S)
        except (RecipientError, ApiError) as error:
            message = f"a partial file stays until it is swept: {error}"
            log.debug(message)

    async def retry(self, transfer_id: str) -> Transfer:
        """Begin again with those that do not have it.

        Raises `ApiError`: `not_found`, `conflict`.
        """
        async with self._turn:
            one = self.show(transfer_id)
            if one.state in ACTIVE or one.state == "done":
                raise ApiError(ApiErrorType.CONFLICT, f"it is {one.state}")
            parts = tuple(p if p.state == "done" else Part(p.recipient) for p in one.parts)
            again = msgspec.structs.replace(
                one, parts=parts, state="queued", reason=None, finished_at=None
            )
            await self._records.put(Transfer, again.id, again)
            self._transfers[again.id] = again
        self._due.set()
        return again

    def running(self) -> list[str]:
        """Name the transfers that are under way on the attached cluster."""
        return [f"transfer {o.id}" for o in self._transfers.values() if o.state == "running"]

    def totals(self) -> TransfersDocument:
        """Return how many there are, and were since the daemon's start."""
        active = sum(one.state in ACTIVE for one in self._transfers.values())
        return TransfersDocument(active, self.completed, self.failed, self.bytes)


def _may_run(transfers: Sequence[Transfer]) -> list[Transfer]:
    """Choose whose turn it is: in order, so many at once in all, from a node and to one."""
    sending: dict[str | None, int] = {}
    receiving: dict[str, int] = {}
    chosen: list[Transfer] = []
    for one in sorted(transfers, key=lambda t: (t.state == "queued", t.created_at)):
        names = [part.recipient for part in one.parts]
        full = sending.get(one.node, 0) >= A_NODE or any(
            receiving.get(name, 0) >= A_NODE for name in names
        )
        if full or len(chosen) >= AT_ONCE:
            continue
        chosen.append(one)
        sending[one.node] = sending.get(one.node, 0) + 1
        for name in names:
            receiving[name] = receiving.get(name, 0) + 1
    return chosen


def _ended(one: Transfer, state: str, reason: str | None) -> Transfer:
    error: Mapping[str, Any] = {
        "type": "cancelled" if state == "cancelled" else "unreachable",
        "message": reason or "cancelled",
    }
    parts = tuple(
        part
        if part.state in {"done", "failed"}
        else msgspec.structs.replace(part, state=state, error=dict(error))
        for part in one.parts
    )
    return msgspec.structs.replace(one, parts=parts, state=state, reason=reason)
