"""What is counted of the facts, and how things stand: the metrics before they are text.

The publisher feeds it, `exposition` writes it down. Every series that can ever be is there from
the start, at zero, so that a rate is seen from the first event on; no label holds an address, an
id or a message.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from castrayd.core.states import Outcome, State
from castrayd.errors import ErrorType, Phase
from castrayd.telemetry.facts import (
    FACTS,
    AttemptEnded,
    CastFinished,
    ConfigReloaded,
    ConnectionLost,
    Fact,
    TransferFinished,
)

__all__ = ("BUCKETS_S", "Histogram", "Metrics", "Standing")

BUCKETS_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""OpenTelemetry's, as far as an attempt can take."""

RECEIPTS: Final = ("delivered", "sent", "refused", "unreachable", "timed_out", "cancelled")
TRANSFERS: Final = ("done", "partial", "failed", "cancelled")

ON_PURPOSE: Final = "requested"
"""The reason of a disconnection that a person wanted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand when somebody looks; times in seconds since 1970, None for none."""

    state: State
    paused: bool
    started: float
    next_retry: float | None
    last_connected: float | None
    last_contact: float | None
    nodes_alive: int | None
    nodes_dead: int | None
    casters_wanted: int
    casters_ready: int
    transfers_active: int
    warnings: Sequence[tuple[str, str]]
    """Code and severity of each that stands."""
    events_dropped: int
    """That the history could not take."""


@dataclass(slots=True)
class Histogram:
    """Counts of observations by size, in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    """Of each bucket alone; the last is what is larger than all."""
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class Metrics:
    """Counts facts; never waits and never raises."""

    def __init__(self) -> None:
        failures = ((Outcome.FAILURE.value, kind.value) for kind in ErrorType)
        ends = ((Outcome.SUCCESS.value, ""), (Outcome.CANCELLED.value, ""), *failures)
        self.attempts = dict.fromkeys(ends, 0)
        """By outcome and class of error; the class of what did not fail is empty."""
        self.attempt_s = {outcome.value: Histogram() for outcome in Outcome}
        self.phase_s = {phase.value: Histogram() for phase in Phase if phase is not Phase.ATTACHED}
        self.disconnections = dict.fromkeys((ON_PURPOSE, *(kind.value for kind in ErrorType)), 0)
        self.events = {fact.NAME: 0 for fact in FACTS}
        self.reloads = {"success": 0, "failure": 0}
        self.receipts = dict.fromkeys(RECEIPTS, 0)
        """Of messages, by outcome."""
        self.transfers = dict.fromkeys(TRANSFERS, 0)
        """That have ended, by how."""
        self.transfer_bytes = 0
        """Verified at recipients."""

    def observe(self, fact: Fact) -> None:
        """Count a fact."""
        self.events[fact.NAME] += 1
        match fact:
            case AttemptEnded():
                self._attempt(fact)
            case ConnectionLost():
                self.disconnections[fact.error.type if fact.error else ON_PURPOSE] += 1
            case ConfigReloaded():
                self.reloads["failure" if fact.error else "success"] += 1
            case CastFinished():
                for outcome in fact.outcomes.values():
                    self.receipts[outcome] += 1
            case TransferFinished():
                self.transfers[fact.state] += 1
                self.transfer_bytes += fact.bytes_verified
            case _:
                return

    def _attempt(self, fact: AttemptEnded) -> None:
        attempt = fact.attempt
        outcome = attempt.outcome or Outcome.CANCELLED
        failed = attempt.error if outcome is Outcome.FAILURE else None
        self.attempts[outcome.value, failed.type.value if failed else ""] += 1
        self.attempt_s[outcome.value].observe(attempt.duration_s)
        for phase, seconds in _known(attempt.phases):
            self.phase_s[phase].observe(seconds)


def _known(phases: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    return [(name, seconds) for name, seconds in phases.items() if name != Phase.ATTACHED]
