"""The stopwatch of an attempt: which phase took how long, on a clock that is handed in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from castrayd.errors import Phase

__all__ = ("RETURNABLE", "PhaseClock")

RETURNABLE: Final = frozenset({Phase.RESOLVE, Phase.TCP, Phase.HEALTH, Phase.LOCAL_NODE})
"""Phases whose mending can be seen without joining and without a token."""


class PhaseClock:
    """Times phases one after another; a phase that fails keeps its time to failure.

    A phase entered twice (a second try within one attempt) adds up.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.durations: dict[Phase, float] = {}
        """Seconds per phase, in the order of first entry; a phase not reached is absent."""
        self.last: Phase | None = None
        """The phase entered last: of what failed, the one that it failed in."""

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Time the body as `phase`, however it ends."""
        started, self.last = self._now(), phase
        try:
            yield
        finally:
            self.durations[phase] = self.durations.get(phase, 0.0) + self._now() - started
