"""What is on its way: a cast, and of it a letter to each recipient, with its receipt."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import anyio

from castrayd.casting.documents import CastDocument, Outcome, Receipt
from castrayd.session.bundle import Row

__all__ = ("Cast", "Letter", "Room", "next_batch")

BATCH: Final = 200
BATCH_CHARACTERS: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class Letter:
    """A message on its way to one recipient."""

    cast: "Cast"
    name: str
    retries: int
    """How many are left."""
    tried: int = 0
    outcome: Outcome = "unreachable"
    """If all further calls fail: `timed_out` once it went out in one, for it may have come."""
    receipt: Receipt | None = None

    def settle(self, outcome: Outcome, error: str | None) -> None:
        """Note what became of it, once."""
        self.receipt = self._receipt(outcome, error)
        self.cast.settled()

    def _receipt(self, outcome: Outcome, error: str | None) -> Receipt:
        latency_s = round(monotonic() - self.cast.began_s, 6)
        return Receipt(self.name, outcome, latency_s, error)

    def known(self) -> Receipt:
        """Return its receipt as far as it is known now."""
        late = f"no receipt within {self.cast.timeout_s:g} s"
        return self.receipt or self._receipt("timed_out", late)


class Cast:
    """A message to recipients, under one deadline."""

    def __init__(
        self, row: Row, recipients: Sequence[str], *, timeout_s: float, retries: int
    ) -> None:
        self.row = row
        self.timeout_s = timeout_s
        self.began_s = monotonic()
        self.due_s = self.began_s + timeout_s
        """When nobody waits for a receipt any more."""
        self.letters = [Letter(self, name, retries) for name in recipients]
        self._left = len(self.letters)
        self._done = anyio.Event()

    def settled(self) -> None:
        """Take note that one letter has its receipt."""
        self._left -= 1
        if not self._left:
            self._done.set()

    async def wait(self) -> CastDocument:
        """Wait for every receipt, or the deadline."""
        with anyio.move_on_after(self.timeout_s):
            if self._left:
                await self._done.wait()
        receipts = [letter.known() for letter in self.letters]
        delivered = sum(receipt.outcome == "delivered" for receipt in receipts)
        failed = sum(receipt.outcome not in {"delivered", "sent"} for receipt in receipts)
        return CastDocument(self.row[0], delivered, failed, receipts)


def next_batch(queue: deque[Letter]) -> list[Letter]:
    """Take what goes out together; what nobody waits for any more is left out."""
    batch: list[Letter] = []
    size, now_s = 0, monotonic()
    while queue and len(batch) < BATCH:
        size += len(queue[0].cast.row[2])
        if batch and size > BATCH_CHARACTERS:
            break
        letter = queue.popleft()
        if letter.cast.due_s > now_s:
            batch.append(letter)
    return batch


class Room:
    """How much may be under way at once. Who finds none waits in turn.

    What is let in may be larger than what is left: a large batch is no special case.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[anyio.Event] = deque()
        self._called = False
        """Whether one whose turn it is has not taken its room yet."""

    async def wait(self) -> None:
        """Wait until there is room; `take` must follow at once, of nothing too."""
        if self._waiting or self._called or self._taken >= self._limit:
            turn = anyio.Event()
            self._waiting.append(turn)
            await turn.wait()
            self._called = False

    def take(self, size: int) -> None:
        """Take room, or with a size below 0 give it back."""
        self._taken += size
        if self._waiting and not self._called and self._taken < self._limit:
            self._called = True
            self._waiting.popleft().set()
