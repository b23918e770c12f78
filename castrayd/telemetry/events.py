"""The event stream: a bounded ring of what happened, and its followers.

The supervisor publishes through `telemetry.publisher`; the control API follows. Publishing never
waits: a follower that reads too slowly loses the oldest of its items and is told how many.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio

__all__ = ("EventLog", "Item", "Replay", "Subscription")

Item: TypeAlias = Mapping[str, Any]
"""`{"seq", "at", "name", ...}`: what one line of the stream holds."""

RING_ITEMS: Final = 4096
"""Hours of a bad day; a follower that was away longer starts from a snapshot."""

MISSED: Final = "castray.events.missed"


@dataclass(frozen=True, slots=True)
class Replay:
    """What a follower missed since the `seq` that it names."""

    items: tuple[Item, ...]
    reset: bool
    """The `seq` is too old, or of another life: what lies between is unknown."""


class Subscription:
    """One follower's queue. Iterate it; leaving the `with` of `EventLog.subscribe` ends it."""

    def __init__(self, types: frozenset[str] | None, capacity: int) -> None:
        self._types = types
        self._queue: deque[Item] = deque(maxlen=capacity)
        self._missed = 0
        self._ready = anyio.Event()

    @property
    def pending(self) -> int:
        """How many items wait to be read."""
        return len(self._queue)

    def offer(self, item: Item) -> None:
        """Append an item; the oldest gives way when the queue is full. Never waits."""
        if self._types is not None and item["name"] not in self._types:
            return
        if len(self._queue) == self._queue.maxlen:
            self._missed += 1
        self._queue.append(item)
        self._ready.set()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Yield items for ever, in order; a gap is an item of its own, named `missed`."""
        while True:
            if not self._queue:
                self._ready = anyio.Event()
                await self._ready.wait()
            item = self._queue.popleft()
            if self._missed:
                missed, self._missed = self._missed, 0
                yield {
                    "seq": item["seq"] - 1,
                    "at": item["at"],
                    "name": MISSED,
                    "missed": missed,
                }
            yield item


class EventLog:
    """The ring and its followers; `first_seq` is the ledger's, so `seq` rises over restarts."""

    def __init__(self, stream_id: str, first_seq: int, ring_items: int = RING_ITEMS) -> None:
        self.stream_id = stream_id
        self.last_seq = first_seq - 1
        self._first = self._floor = first_seq
        self._restored = first_seq - 1
        """The last of earlier lives that is known; what is between it and ours was lost."""
        self._ring: deque[Item] = deque(maxlen=ring_items)
        self._followers: set[Subscription] = set()

    def restore(self, items: Iterable[Item]) -> None:
        """Take the last events of earlier lives in; before anything is appended."""
        self._ring.extend(items)
        if self._ring:
            self._floor = self._ring[0]["seq"]
            self._restored = self._ring[-1]["seq"]

    def append(self, at: str, name: str, fields: Mapping[str, Any]) -> Item:
        """Number one event, keep it and hand it to every follower."""
        self.last_seq += 1
        item = {"seq": self.last_seq, "at": at, "name": name, **fields}
        if len(self._ring) == self._ring.maxlen:
            self._floor = self._ring[0]["seq"] + 1
        self._ring.append(item)
        for follower in self._followers:
            follower.offer(item)
        return item

    def since(self, seq: int, types: frozenset[str] | None = None) -> Replay:
        """Items after `seq`; all that there are, with `reset`, where `seq` is not known."""
        lost = self._restored < seq < self._first
        reset = lost or not self._floor - 1 <= seq <= self.last_seq
        items = (
            item
            for item in self._ring
            if (reset or item["seq"] > seq) and (types is None or item["name"] in types)
        )
        return Replay(tuple(items), reset)

    @contextmanager
    def subscribe(
        self, types: frozenset[str] | None = None, capacity: int = 1024
    ) -> Iterator[Subscription]:
        """Follow what is appended from now on."""
        follower = Subscription(types, capacity)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)
