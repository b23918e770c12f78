"""One fact, one event, one number: into the stream, into the log, and to whoever else wants it.

The supervisor and the daemon tell it what happened. Keys in the stream are plain, keys in the log
are dotted; the line's `event.sequence` is the event's `seq`.
"""

from collections.abc import Callable
from typing import TypeAlias

import structlog

from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import EventLog, Item
from castrayd.telemetry.facts import Fact, plain
from castrayd.telemetry.wording import Wording

__all__ = ("Publisher", "Sink")

log = structlog.get_logger("castrayd")

Sink: TypeAlias = Callable[[Item, Fact], None]
"""Takes an event that has its number, and the fact that it tells; must neither wait nor raise."""


class Publisher:
    """Publishes facts; never waits and never raises."""

    def __init__(self, events: EventLog, clock: Clock, *sinks: Sink) -> None:
        self.events = events
        self._clock = clock
        self._sinks = sinks
        self._wording = Wording(clock.monotonic)

    def publish(self, fact: Fact) -> None:
        """Tell a fact, once to everybody."""
        item = self.events.append(self._clock.now(), fact.NAME, plain(fact))
        line = self._wording.line(fact)
        keys = {"event.name": fact.NAME, "event.sequence": item["seq"], **line.keys}
        write: Callable[..., None] = getattr(log, line.level)
        write(line.message, **keys)
        for sink in self._sinks:
            sink(item, fact)
