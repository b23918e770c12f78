"""All transfers that are known, in the ledger and in memory, and what they add up to."""

from typing import Final

from msgspec.structs import replace

from castrayd.casting.plans import ACTIVE, Transfer
from castrayd.casting.records import Records
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.supervisor.documents import TransfersDocument
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.facts import TransferFinished
from castrayd.telemetry.publisher import Publisher

__all__ = ("Book",)

KEPT: Final = 1000
"""Transfers that have ended, and are still shown."""


class Book:
    """Durable where it matters when a call returns. Raises sqlite3.Error."""

    def __init__(self, records: Records, publisher: Publisher, clock: Clock) -> None:
        self._records = records
        self._publisher = publisher
        self._clock = clock
        self._transfers: dict[str, Transfer] = {}
        self._completed = self._failed = self._bytes = 0

    def restore(self) -> list[Transfer]:
        """Read all from the ledger, once; returns those that go on."""
        found = sorted(self._records.all(Transfer), key=lambda one: one.created_at)
        self._transfers = {one.id: one for one in found}
        return [one for one in found if one.state in ACTIVE]

    def all(self) -> list[Transfer]:
        """Return every transfer, the newest first."""
        return list(reversed(self._transfers.values()))

    def show(self, transfer_id: str) -> Transfer:
        """Return one. Raises `ApiError` (`not_found`)."""
        one = self._transfers.get(transfer_id)
        if one is None:
            raise ApiError(ApiErrorType.NOT_FOUND, f"no such transfer: {transfer_id}")
        return one

    async def keep(self, one: Transfer) -> None:
        """Have it in the ledger, and then shown."""
        await self._records.put(Transfer, one.id, one)
        self._transfers[one.id] = one

    async def settle(self, one: Transfer) -> None:
        """Take in how it is now; what is counted anew at each look is not worth a write."""
        if one.state not in ACTIVE:
            await self._end(one)
        elif _lasting(one) != _lasting(self.show(one.id)):
            await self.keep(one)
        else:
            self._transfers[one.id] = one

    async def _end(self, one: Transfer) -> None:
        """Count what this run of it has added: bytes of files that it has brought, and once."""
        done = [part for part in one.parts if part.state == "done" and not part.skipped]
        added = sum(part.bytes_verified for part in done if not part.counted)
        parts = tuple(replace(part, counted=part.state == "done") for part in one.parts)
        one = replace(one, parts=parts, finished_at=self._clock.now())
        await self.keep(one)
        self._bytes += added
        self._completed += one.state == "done"
        self._failed += one.state != "done"
        outcomes = {p.recipient: p.error["type"] if p.error else p.state for p in one.parts}
        self._publisher.publish(TransferFinished(one.id, one.state, added, one.sha256, outcomes))

    async def make_room(self) -> None:
        """Forget the oldest of those that have ended, where they are too many."""
        over = [one for one in self._transfers.values() if one.state not in ACTIVE]
        for old in over[: max(0, len(over) - KEPT)]:
            await self._records.delete(Transfer, old.id)
            self._transfers.pop(old.id, None)

    def totals(self) -> TransfersDocument:
        """Return how many there are, and were since the daemon's start; bytes are verified ones."""
        active = sum(one.state in ACTIVE for one in self._transfers.values())
        return TransfersDocument(active, self._completed, self._failed, self._bytes)


def _lasting(one: Transfer) -> tuple[object, ...]:
    """Return what a restart must know."""
    states = [part.state for part in one.parts]
    return one.state, one.chunk_bytes, one.bytes_total, one.mtime_ns, one.sha256, states
