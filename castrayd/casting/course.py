"""The course of one transfer while it has its turn: begun, looked at, begun again, ended.

The sender's actor does the work and goes on without us. Here it is told what to do, asked how far
it is, and told again where it, the session, this daemon or the cluster was lost.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import anyio
import structlog
from msgspec.structs import replace

from castrayd.casting.book import Book
from castrayd.casting.link import Link
from castrayd.casting.outcomes import again, anew, arrived, cancelled, failed, merged
from castrayd.casting.plans import ACTIVE, SETTLED, Part, Transfer, plan, sizes
from castrayd.casting.speed import Speed
from castrayd.casting.stores import stores_of
from castrayd.casting.uploads import Uploads
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType
from castrayd.supervisor.attachment import Attachment
from castrayd.telemetry.facts import TransferProgress, TransferStarted
from castrayd.telemetry.publisher import Publisher

__all__ = ("Course", "Means")

LOOK_S: Final = 0.25
SOON_S: Final = 0.03
"""Between two looks at a sender that was told to stop."""
TOLD_S: Final = 1.0
"""Between two events that tell how far a transfer is."""
ASK_S: Final = 10.0
STOP_S: Final = 3.0
"""What the nodes may take each to hear of a cancellation: somebody waits for it."""

log = structlog.get_logger("castrayd.casting")


@dataclass(frozen=True, slots=True)
class Means:
    """What the courses of one daemon share."""

    link: Link
    uploads: Uploads
    book: Book
    publisher: Publisher
    patience_s: Callable[[], float]
    """A sender without a good answer for so long while the cluster is there fails its transfer."""


class Course:
    """One transfer until it has ended. Whoever drives it holds the lock: a run, or a stop."""

    def __init__(self, transfer_id: str, means: Means) -> None:
        self.id = transfer_id
        self._means = means
        self._lock = anyio.Lock()
        self._scope: anyio.CancelScope | None = None
        self._speed = Speed()
        self._attachment: Attachment | None = None
        self._silent_s: float | None = None
        """Since when the sender gives no good answer by this attachment."""
        self._told_s = float("-inf")
        self._is_misled = False
        """Whether the sender has just told of an end, which is none if there is another look."""

    @property
    def transfer(self) -> Transfer:
        """The transfer as it is now."""
        return self._means.book.show(self.id)

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.transfer.state in ACTIVE

    async def run(self) -> None:
        """Carry it on until it has ended, or `stop` takes over."""
        async with self._lock:
            with anyio.CancelScope() as self._scope:
                while self.is_active:
                    try:
                        await self._step()
                        if self.is_active:  # else its end is to be seen without a pause
                            await self._pause()
                    except Exception as error:
                        log.error("a look at a transfer failed by a bug", exc_info=error)
                        await anyio.sleep(LOOK_S)  # its end may be there, and not be kept

    async def _pause(self) -> None:
        """Wait until the next look is due, or the sender says that it has come to its end."""
        began_s = monotonic()
        with anyio.move_on_after(LOOK_S):
            if self.transfer.state == "running" and not self._is_misled:
                with contextlib.suppress(RecipientError, ApiError):
                    sender, _ = await self._source(self.transfer)
                    await self._means.link.call(sender, "ended", self.id, LOOK_S, timeout_s=ASK_S)
                    self._is_misled = monotonic() - began_s < LOOK_S / 2  # if it has not ended now
                    return
            self._is_misled = False
            await anyio.sleep(LOOK_S)

    def pace(self) -> tuple[float | None, float | None]:
        """Return verified bytes a second of late, and the seconds that are left; None unknown."""
        one = self.transfer
        rate = self._speed.rate() if one.state == "running" else None
        if not rate or one.bytes_total is None:
            return rate, None
        going = [part.bytes_verified for part in one.parts if part.state not in SETTLED]
        return rate, max(0.0, (len(going) * one.bytes_total - sum(going)) / rate)

    async def _step(self) -> None:
        asked_s = monotonic()
        try:
            self._notice(self._means.link.attachment())
            after = await self._carried(self.transfer)
            self._silent_s = None
        except (RecipientError, ApiError) as error:
            after = await self._interrupted(error, asked_s)
        await self._means.book.settle(after)
        self._speed.add(monotonic(), after.bytes_carried)
        if after.state in ACTIVE:
            self._tell(after)

    def _notice(self, attachment: Attachment) -> None:
        """Begin anew to wait for the sender: what was before an outage is no silence of it."""
        if attachment is not self._attachment:
            self._attachment, self._silent_s = attachment, None

    async def _carried(self, one: Transfer) -> Transfer:
        """Ask the sender how far it is; tell it what to do where it does not know."""
        sender, source = await self._source(one)
        if one.state != "queued":
            progress = await self._means.link.call(sender, "sending", one.id, timeout_s=ASK_S)
            if progress is not None and progress["state"] != "cancelled":  # only we end it so
                return await self._taken(one, progress)
        planned, window = await self._planned(anew(one), sender)
        await self._means.book.settle(planned)  # chunks stay as they are cut
        task = plan(planned, window, source, self._means.patience_s())
        progress = await self._means.link.call(sender, "send", task, timeout_s=ASK_S)
        if one.state == "queued":
            names = [part.recipient for part in one.parts]
            self._means.publisher.publish(TransferStarted(one.id, sender, names))
        return await self._taken(planned, progress)

    async def _source(self, one: Transfer) -> tuple[str, str]:
        """Return which node sends, and from which path."""
        if one.node is not None:
            return one.node, one.source
        return await self._means.uploads.sender(), f"uploads:{one.source}"

    async def _planned(self, one: Transfer, sender: str) -> tuple[Transfer, int]:
        names = {sender, *(part.recipient for part in one.parts if part.state not in SETTLED)}
        chunk, window = sizes(await stores_of(self._means.link, names), one.bandwidth_bytes_s)
        if one.chunk_bytes is not None:
            return one, max(2, window * chunk // one.chunk_bytes)
        return replace(one, chunk_bytes=chunk), window

    async def _taken(self, one: Transfer, progress: Mapping[str, Any]) -> Transfer:
        """Take in what the sender says; one that goes on with another file is stopped."""
        after = merged(one, progress)
        if after.state not in ACTIVE and progress["state"] == "running":
            await self._call_off(one)
        return after

    async def _call_off(self, one: Transfer) -> None:
        """Tell the sender to stop; one that is frozen hears of it when it wakes."""
        with contextlib.suppress(RecipientError, ApiError):
            sender, _ = await self._source(one)
            await self._means.link.call(sender, "cancel_sending", one.id, timeout_s=STOP_S)

    async def _interrupted(self, error: RecipientError | ApiError, asked_s: float) -> Transfer:
        """Note why it waits; a sender that is gone while the cluster is there ends it."""
        one = self.transfer
        if isinstance(error, RecipientError):  # else there was nobody to ask
            self._silent_s = asked_s if self._silent_s is None else self._silent_s
            if monotonic() - self._silent_s > self._means.patience_s():
                await self._call_off(one)
                return _given_up(one, error)
        state = "queued" if one.state == "queued" else "interrupted"
        return replace(one, state=state, reason=error.message)

    def _tell(self, one: Transfer) -> None:
        now_s = monotonic()
        if now_s - self._told_s < TOLD_S:
            return
        self._told_s = now_s
        self._means.publisher.publish(
            TransferProgress(one.id, one.state, one.bytes_verified, one.bytes_total, *self.pace())
        )

    async def retry(self) -> None:
        """Have it go on with those that do not have it. Raises `ApiError` (`conflict`)."""
        async with self._lock:
            one = self.transfer
            if one.state in ACTIVE or one.state == "done":
                raise ApiError(ApiErrorType.CONFLICT, f"it is {one.state}")
            await self._means.book.keep(again(one))

    async def stop(self) -> None:
        """Cancel it, and ask the nodes what has arrived all the same.

        Raises `ApiError` (`conflict`) where it has ended.
        """
        if self._scope is not None:
            self._scope.cancel()
        async with self._lock:
            one = self.transfer
            if one.state not in ACTIVE:
                raise ApiError(ApiErrorType.CONFLICT, f"it is {one.state} already")
            if one.state != "queued" or self._attachment is not None:
                one = await self._abandoned(await self._halted(one))
            await self._means.book.settle(cancelled(one))

    async def _halted(self, one: Transfer) -> Transfer:
        """Have the sender stop, and hear its last word: what it says has arrived, has."""
        call = self._means.link.call
        with anyio.move_on_after(STOP_S), contextlib.suppress(RecipientError, ApiError):
            sender, _ = await self._source(one)
            await call(sender, "cancel_sending", one.id, timeout_s=STOP_S)
            while progress := await call(sender, "sending", one.id, timeout_s=STOP_S):
                one = merged(one, progress)
                if progress["state"] != "running":
                    break
                await anyio.sleep(SOON_S)
        return one

    async def _abandoned(self, one: Transfer) -> Transfer:
        """Have the recipients forget what is not whole; what one has published, it has."""
        parts = list(one.parts)

        async def abandon(place: int, part: Part) -> None:
            with contextlib.suppress(RecipientError, ApiError):  # what stays of it is swept
                answer = await self._means.link.call(
                    part.recipient, "file_abandon", one.id, timeout_s=STOP_S
                )
                if "done" in answer:
                    parts[place] = arrived(part, answer["done"])

        async with anyio.create_task_group() as tasks:
            for place, part in enumerate(one.parts):
                if part.state not in SETTLED:
                    tasks.start_soon(abandon, place, part)
        return replace(one, parts=tuple(parts))


def _given_up(one: Transfer, error: RecipientError | ApiError) -> Transfer:
    """End it for its sender, and say whether that is gone or fails."""
    if error.type is RecipientErrorType.INTERNAL:
        return failed(one, "internal", f"the sender fails: {error.message}")
    return failed(one, "unreachable", f"the sender is gone: {error.message}")
