"""The two clocks: monotonic for every duration and deadline, wall time only for what is shown."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ("Clock",)


@dataclass(frozen=True, slots=True)
class Clock:
    """Reads both clocks; tests hand in their own."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time  # noqa: TID251  the one place that reads wall time

    def now(self) -> str:
        """Now, RFC 3339 in UTC with microseconds."""
        return _rfc3339(self.wall())

    def at(self, monotonic_s: float) -> str:
        """What the wall clock showed, or will show, at a monotonic instant.

        Computed from the present offset of the clocks, so that a step of the wall clock moves
        what is shown and never what is waited for.
        """
        return _rfc3339(self.wall_at(monotonic_s))

    def wall_at(self, monotonic_s: float) -> float:
        """The same in seconds since 1970."""
        return self.wall() + monotonic_s - self.monotonic()


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
