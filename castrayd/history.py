"""What happened, over restarts: events go to the ledger from a thread, in batches.

The composition root makes one, has the publisher feed it and reads it at the start. Nobody waits
for the disk: where it does not keep up, or is full, events are lost to the history alone.
"""

import queue
import sqlite3
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from castrayd.core.states import State
from castrayd.ledger import Ledger, Row
from castrayd.telemetry.encoding import to_json
from castrayd.telemetry.facts import AttemptEnded, StateChanged

__all__ = ("History",)

Item: TypeAlias = Mapping[str, Any]

WAITING: Final = 10_000
BATCH: Final = 500
GATHER_S: Final = 0.2
"""After a first event others are waited for so long: a transaction each would wear the disk."""
RESTORED: Final = 1_000
"""So many of the last events are in the stream again after a restart."""

log = structlog.get_logger("castrayd.history")


class History:
    """Stores events in order; `close` writes what still waits."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: queue.Queue[Item | None] = queue.Queue(WAITING)
        self._failing = False
        self.dropped = 0
        """Events that found no room, or could not be written."""
        self._thread = threading.Thread(target=self._run, name="castrayd-history", daemon=True)
        self._thread.start()

    def keep(self, item: Item) -> None:
        """Take an event; never waits."""
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.dropped += 1  # a disk that hangs: the stream and the log have it

    def events(self) -> list[dict[str, Any]]:
        """Return the last events of earlier lives, the oldest first."""
        return [msgspec.json.decode(body) for body in self._ledger.events(RESTORED)]

    def attempts(self, limit: int) -> list[dict[str, Any]]:
        """Return the last attempts of earlier lives, the newest first."""
        bodies = self._ledger.events(limit, AttemptEnded.NAME)
        return [msgspec.json.decode(body) for body in reversed(bodies)]

    def close(self, timeout_s: float) -> None:
        """Write what waits; gives up when the time is over."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = self._gather(first)
            self._store(batch)
            if last:
                return

    def _gather(self, first: Item) -> tuple[list[Item], bool]:
        """Wait a moment for more; returns them, and whether they are the last ones."""
        batch, until_s = [first], monotonic() + GATHER_S
        while len(batch) < BATCH:
            try:
                item = self._waiting.get(timeout=max(0.0, until_s - monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _row(self, item: Item) -> Row:
        return item["seq"], item["at"], item["name"], to_json(item)

    def _store(self, items: list[Item]) -> None:
        """Write, or tell once that it fails; when it goes on that is no news."""
        try:
            if connected := [item["at"] for item in items if _was_connected(item)]:
                self._ledger.note_connected(connected[-1])
            self._ledger.store_events([self._row(item) for item in items])
            self._failing = False
        except sqlite3.Error as error:
            self.dropped += len(items)
            if not self._failing:
                message = f"the history of events cannot be written: {error}"
                log.warning(message)
            self._failing = True


def _was_connected(item: Item) -> bool:
    """Whether it was connected then: it has just become so, or is no more."""
    return item["name"] == StateChanged.NAME and State.CONNECTED in {item["from"], item["to"]}
