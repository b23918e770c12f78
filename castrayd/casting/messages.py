"""Casts: a message to recipients, and a true receipt from each.

Each recipient has a queue of its own with one call under way: what one sender sends to one
recipient arrives in that order, and what waits meanwhile goes out together in the next call. All
recipients of a cast are served side by side, under one deadline.
"""

import json
import uuid
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from castrayd.casting.documents import CastDocument, Outcome
from castrayd.casting.letters import Cast, Letter, Room, next_batch
from castrayd.casting.link import Link
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType

__all__ = ("MAX_BODY_BYTES", "Messages")

MAX_BODY_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 100
"""Of lists and objects within each other: readers have to follow it."""
UNDER_WAY: Final = 64 * 1024 * 1024
"""Characters in all calls at once: the driver has a copy for each of them."""
LETTERS: Final = 100_000
"""Without a receipt, to all recipients; a cast that would make them more is refused."""
WAITING: Final = 10_000
"""For one recipient; what is more is refused, for nobody would wait for it."""
RETRY_S: Final = 0.2
"""Before a first repetition; doubled for each further one."""
RETRY_MAX_S: Final = 5.0
UDP: Final = "udp:"
"""Before `HOST:PORT`: a program without Ray, or a broadcast address."""

log = structlog.get_logger("castrayd.casting")


class Messages:
    """All casts of one daemon; `tasks` is where its deliveries run."""

    def __init__(self, link: Link, tasks: TaskGroup) -> None:
        self._link = link
        self._tasks = tasks
        self._queues: dict[str, deque[Letter]] = {}
        self._room = Room(UNDER_WAY)
        self._letters = 0

    async def cast(  # noqa: PLR0913  a message has these
        self,
        recipients: Sequence[str],
        body: Any,  # noqa: ANN401  any JSON
        *,
        sender: str,
        message_id: str | None,
        timeout_s: float,
        retries: int,
    ) -> CastDocument:
        """Send to every recipient at once, and wait for every receipt, or the deadline.

        Raises `ApiError`: `not_connected`, `bad_request`, `too_large`, `busy`. Cancelled, it
        leaves what is on its way.
        """
        self._link.attachment()
        if self._letters + len(recipients) > LETTERS:
            raise ApiError(ApiErrorType.BUSY, f"{self._letters} receipts are waited for already")
        row = (message_id or uuid.uuid4().hex, sender, _text(body))
        one = Cast(row, recipients, timeout_s=timeout_s, retries=retries)
        for letter in one.letters:
            if letter.name.startswith(UDP):
                self._tasks.start_soon(self._datagram, letter, name=f"datagram-{row[0]}")
            else:
                self._post(letter)
        self._letters += len(one.letters)
        try:
            return await one.wait()
        finally:
            self._letters -= len(one.letters)

    async def _datagram(self, letter: Letter) -> None:
        """Have the sender's node send it by UDP, of which nobody confirms the arrival."""
        _, sender, body = letter.cast.row
        host, _, port = letter.name.removeprefix(UDP).rpartition(":")
        arguments = (host.strip("[]"), int(port) if port.isdigit() else 0, body)
        timeout_s = letter.cast.due_s - monotonic()
        try:
            refused = await self._link.call(sender, "datagram", *arguments, timeout_s=timeout_s)
        except Exception as error:  # noqa: BLE001  it is noted, and ends nothing else
            failure = _noted(error)
            outcome: Outcome = "timed_out" if _may_have_come(failure) else "unreachable"
            letter.settle(outcome, f"the sender's node: {failure.message}")
        else:
            letter.settle("refused" if refused else "sent", refused)

    def _post(self, letter: Letter) -> None:
        name = letter.name
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = deque()
            self._tasks.start_soon(self._serve, name, queue, name=f"messages-{name}")
        if len(queue) >= WAITING:
            letter.settle("refused", f"{WAITING} messages wait for it already")
        else:
            queue.append(letter)

    async def _serve(self, name: str, queue: deque[Letter]) -> None:
        """Send what waits for one recipient until nothing does."""
        while queue:
            await self._room.wait()
            batch = next_batch(queue)
            size = sum(len(letter.cast.row[2]) for letter in batch)
            self._room.take(size)
            again = await self._send(name, batch) if batch else []
            self._room.take(-size)
            queue.extendleft(reversed(again))
            if again:
                await anyio.sleep(min(RETRY_MAX_S, RETRY_S * 2 ** again[0].tried))
        del self._queues[name]

    async def _send(self, name: str, batch: list[Letter]) -> list[Letter]:
        """Make one call; returns what is to be sent again."""
        timeout_s = max(letter.cast.due_s for letter in batch) - monotonic()
        rows = [letter.cast.row for letter in batch]
        try:
            outcomes = await self._link.deliver(name, rows, timeout_s)
            told = list(zip(batch, outcomes, strict=True))
        except Exception as error:  # noqa: BLE001  it is noted, and ends nothing else
            return _failed(batch, _noted(error))
        for letter, outcome in told:
            if outcome == "delivered":
                letter.settle("delivered", None)
            else:
                letter.settle("refused", outcome)
        return []


def _text(body: Any) -> str:  # noqa: ANN401
    """Return a body as JSON, as it goes through session and node, unread. Raises `ApiError`."""
    if _is_deep(body, MAX_DEPTH):
        message = f"lists and objects may be at most {MAX_DEPTH} deep"
        raise ApiError(ApiErrorType.BAD_REQUEST, message, field="body")
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    if len(text.encode(errors="surrogatepass")) > MAX_BODY_BYTES:
        message = f"a message has at most {MAX_BODY_BYTES} bytes; send a file instead"
        raise ApiError(ApiErrorType.TOO_LARGE, message, field="body")
    return text


def _is_deep(value: Any, left: int) -> bool:  # noqa: ANN401
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (left < 1 or any(_is_deep(one, left - 1) for one in value))


def _failed(batch: list[Letter], error: RecipientError | ApiError) -> list[Letter]:
    """Settle what is not to be repeated; returns the rest, each with one repetition less."""
    again = []
    for letter in batch:
        if _may_have_come(error):
            letter.outcome = "timed_out"
        if letter.retries > 0 and letter.cast.due_s > monotonic():
            letter.retries -= 1
            letter.tried += 1
            again.append(letter)
        else:
            letter.settle(letter.outcome, error.message)
    return again


def _noted(error: Exception) -> RecipientError | ApiError:
    """Return what a receipt tells of a failure; one that nobody foresaw is a bug."""
    if isinstance(error, RecipientError | ApiError):
        return error
    log.error("a message was not sent by a bug", exc_info=error)
    return RecipientError(RecipientErrorType.INTERNAL, f"{type(error).__name__}: {error}")


def _may_have_come(error: RecipientError | ApiError) -> bool:
    """Whether something went out before the error; an `ApiError` says that nothing is attached."""
    return not isinstance(error, ApiError) and error.type is not RecipientErrorType.UNREACHABLE
