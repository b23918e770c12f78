"""Casts: a message to recipients, and a true receipt from each.

Each recipient has a queue of its own with one call under way: what one sender sends to one
recipient arrives in that order, and what waits meanwhile goes out together in the next call. All
recipients of a cast are served side by side, under one deadline.
"""

import json
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, get_args

import anyio
from anyio.abc import TaskGroup

from castrayd.casting.documents import CastDocument, Outcome, Receipt
from castrayd.casting.link import Link
from castrayd.refusals import ApiError, ApiErrorType, RecipientError

__all__ = ("MAX_BODY_BYTES", "Messages")

MAX_BODY_BYTES: Final = 64 * 1024
BATCH: Final = 200
BATCH_BYTES: Final = 1024 * 1024
WAITING: Final = 10_000
"""For one recipient; what is more is refused, for nobody would wait for it."""
RETRY_S: Final = 0.2
"""Before a first repetition; doubled for each further one."""
RETRY_MAX_S: Final = 5.0
UDP: Final = "udp:"
"""Before `HOST:PORT`: a program without Ray, or a broadcast address."""


@dataclass(slots=True, eq=False)
class _Letter:
    """A message on its way to one recipient."""

    id: str
    sender: str
    body: str
    began_s: float
    due_s: float
    retries: int
    """How many are left."""
    tried: int = 0
    receipt: Receipt | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class Messages:
    """All casts of one daemon; `tasks` is where its deliveries run."""

    def __init__(self, link: Link, tasks: TaskGroup) -> None:
        self._link = link
        self._tasks = tasks
        self._queues: dict[str, deque[_Letter]] = {}

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

        Raises `ApiError`: `not_connected`, `too_large`. Cancelled, it leaves what is on its way.
        """
        self._link.attachment()
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        if len(text.encode(errors="surrogatepass")) > MAX_BODY_BYTES:
            message = f"a message has at most {MAX_BODY_BYTES} bytes; send a file instead"
            raise ApiError(ApiErrorType.TOO_LARGE, message, field="body")
        id_, began_s = message_id or uuid.uuid4().hex, monotonic()
        letters = [
            (name, _Letter(id_, sender, text, began_s, began_s + timeout_s, retries))
            for name in recipients
        ]
        for name, letter in letters:
            if name.startswith(UDP):
                self._tasks.start_soon(self._datagram, name, letter, name=f"datagram-{id_}")
            else:
                self._post(name, letter)
        with anyio.move_on_after(timeout_s):
            for _, letter in letters:
                await letter.done.wait()
        late = f"no receipt within {timeout_s:g} s"
        receipts = [one.receipt or _receipt(one, name, "timed_out", late) for name, one in letters]
        return _document(id_, receipts)

    async def _datagram(self, name: str, letter: _Letter) -> None:
        """Have the sender's node send it by UDP, of which nobody confirms the arrival."""
        host, _, port = name.removeprefix(UDP).rpartition(":")
        arguments = (host.strip("[]"), int(port) if port.isdigit() else 0, letter.body)
        timeout_s = letter.due_s - monotonic()
        try:
            refused = await self._link.call(
                letter.sender, "datagram", *arguments, timeout_s=timeout_s
            )
        except (RecipientError, ApiError) as error:
            _settle(letter, name, "unreachable", f"the sender's node: {error.message}")
        else:
            _settle(letter, name, "refused" if refused else "sent", refused)

    def _post(self, name: str, letter: _Letter) -> None:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = deque()
            self._tasks.start_soon(self._serve, name, queue, name=f"messages-{name}")
        if len(queue) >= WAITING:
            _settle(letter, name, "refused", f"{WAITING} messages wait for it already")
        else:
            queue.append(letter)

    async def _serve(self, name: str, queue: deque[_Letter]) -> None:
        """Send what waits for one recipient until nothing does."""
        while queue:
            batch = _next_batch(queue)
            if batch:
                again = await self._send(name, batch)
                queue.extendleft(reversed(again))
                if again:
                    await anyio.sleep(min(RETRY_MAX_S, RETRY_S * 2 ** again[0].tried))
        del self._queues[name]

    async def _send(self, name: str, batch: list[_Letter]) -> list[_Letter]:
        """Make one call; returns what is to be sent again."""
        timeout_s = max(letter.due_s for letter in batch) - monotonic()
        rows = [[letter.id, letter.sender, letter.body] for letter in batch]
        try:
            outcomes = await self._link.call(name, "deliver", rows, timeout_s=timeout_s)
        except RecipientError as error:
            return _failed(name, batch, error)
        except ApiError as error:  # the attachment has ended
            return _failed(name, batch, RecipientError("unreachable", error.message))
        for letter, outcome in zip(batch, outcomes, strict=True):
            if outcome == "delivered":
                _settle(letter, name, "delivered", None)
            else:
                _settle(letter, name, "refused", outcome)
        return []


def _next_batch(queue: deque[_Letter]) -> list[_Letter]:
    """Take what goes out together; what nobody waits for any more is left out."""
    batch: list[_Letter] = []
    size, now_s = 0, monotonic()
    while queue and len(batch) < BATCH:
        size += len(queue[0].body)
        if batch and size > BATCH_BYTES:
            break
        letter = queue.popleft()
        if letter.due_s > now_s:
            batch.append(letter)
    return batch


def _failed(name: str, batch: list[_Letter], error: RecipientError) -> list[_Letter]:
    """Settle what is not to be repeated; returns the rest, each with one repetition less."""
    outcome: Outcome = error.type if error.type in _OUTCOMES else "unreachable"  # type: ignore[assignment]
    again = []
    for letter in batch:
        if letter.retries > 0 and letter.due_s > monotonic():
            letter.retries -= 1
            letter.tried += 1
            again.append(letter)
        else:
            _settle(letter, name, outcome, error.message)
    return again


_OUTCOMES: Final = frozenset(get_args(Outcome))


def _settle(letter: _Letter, name: str, outcome: Outcome, error: str | None) -> None:
    letter.receipt = _receipt(letter, name, outcome, error)
    letter.done.set()


def _receipt(letter: _Letter, name: str, outcome: Outcome, error: str | None) -> Receipt:
    return Receipt(name, outcome, round(monotonic() - letter.began_s, 6), error)


def _document(id_: str, receipts: Sequence[Receipt]) -> CastDocument:
    delivered = sum(receipt.outcome == "delivered" for receipt in receipts)
    failed = sum(receipt.outcome not in {"delivered", "sent"} for receipt in receipts)
    return CastDocument(id_, delivered, failed, receipts)
