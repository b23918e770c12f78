"""Transfers: files from one casting node, or an upload, to others.

Each is kept from the moment it is accepted, waits for its turn, and has a task of its own while it
has it: none waits for another one's nodes.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Final

import anyio
from msgspec.structs import replace

from castrayd.casting.book import Book
from castrayd.casting.course import Course, Means
from castrayd.casting.link import Link
from castrayd.casting.plans import Part, Transfer
from castrayd.casting.records import Records
from castrayd.casting.turns import Turns
from castrayd.casting.uploads import Uploads
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.supervisor.documents import TransfersDocument
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.publisher import Publisher

__all__ = ("Transfers",)

QUEUED: Final = 1000
"""Transfers that may wait for their turn."""


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
        """For `patience_s` see `Means`."""
        self._clock = clock
        self._book = Book(records, publisher, clock)
        self._means = Means(link, uploads, self._book, publisher, patience_s)
        self._turns = Turns()
        self._courses: dict[str, Course] = {}
        """Of all that have not ended."""
        self._due = anyio.Event()

    def restore(self) -> None:
        """Read the transfers from the ledger; once, before anything else."""
        for one in self._book.restore():
            self._courses[one.id] = Course(one.id, self._means)
            self._turns.add(one)

    async def run(self) -> None:
        """Carry the transfers on until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._due = anyio.Event()
                for transfer_id in self._turns.take():
                    tasks.start_soon(self._carry, self._courses[transfer_id])
                await self._due.wait()

    async def _carry(self, course: Course) -> None:
        await course.run()
        if not course.is_active:  # else somebody stops it
            self._release(course)

    def _release(self, course: Course) -> None:
        """Give its turn to another one; it waits for a new one itself if it has not ended."""
        if self._courses.get(course.id) is not course:
            return
        self._turns.leave(course.id)
        if course.is_active:
            self._turns.add(course.transfer)
        else:
            del self._courses[course.id]
        self._due.set()

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
        """Accept a transfer: it is in the ledger when this returns.

        Raises `ApiError` (`busy`) where too many wait already.
        """
        if self._turns.waiting >= QUEUED:
            message = f"{QUEUED} transfers wait for their turn already"
            hint = "Wait until some have ended, or cancel some."
            raise ApiError(ApiErrorType.BUSY, message, hint)
        await self._book.make_room()
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
            one = replace(one, state="done", finished_at=one.created_at)
        await self._book.keep(one)
        if recipients:
            self._courses[one.id] = Course(one.id, self._means)
            self._turns.add(one)
            self._due.set()
        return one

    def all(self) -> list[Transfer]:
        """Return every transfer that is known, the newest first."""
        return self._book.all()

    def show(self, transfer_id: str) -> Transfer:
        """Return one. Raises `ApiError` (`not_found`)."""
        return self._book.show(transfer_id)

    def speed(self, one: Transfer) -> tuple[float | None, float | None]:
        """Return verified bytes a second of late, and the seconds that are left; None unknown."""
        course = self._courses.get(one.id)
        return course.pace() if course else (None, None)

    async def cancel(self, transfer_id: str) -> Transfer:
        """End a transfer for good, durably. Raises `ApiError`: `not_found`, `conflict`."""
        one, course = self.show(transfer_id), self._courses.get(transfer_id)
        if course is None:
            raise ApiError(ApiErrorType.CONFLICT, f"it is {one.state} already")
        try:
            await course.stop()
        finally:
            self._release(course)
        return self.show(transfer_id)

    async def retry(self, transfer_id: str) -> Transfer:
        """Begin again with those that do not have it.

        Raises `ApiError`: `not_found`, `conflict`.
        """
        one = self.show(transfer_id)
        if transfer_id in self._courses:
            raise ApiError(ApiErrorType.CONFLICT, f"it is {one.state}")
        course = self._courses[transfer_id] = Course(transfer_id, self._means)
        try:
            await course.retry()
        finally:
            self._release(course)
        return self.show(transfer_id)

    def running(self) -> list[str]:
        """Name the transfers that are under way on the attached cluster."""
        active = (course.transfer for course in self._courses.values())
        return [f"transfer {one.id}" for one in active if one.state == "running"]

    def totals(self) -> TransfersDocument:
        """Return how many there are, and were since the daemon's start."""
        return self._book.totals()
