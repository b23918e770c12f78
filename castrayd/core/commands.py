"""Orders that the core gives to the shell, in the imperative. Frozen.

Every command takes a fresh epoch and occupies a slot. The shell performs exactly those commands
that the snapshot awaits: one that is awaited is answered by one final event with its epoch; one
that is not awaited any more (superseded, or its slot was given up) is cancelled, and an answer
that was on its way is dropped.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeAlias

from castrayd.core.states import Trigger

__all__ = (
    "AttemptRef",
    "Command",
    "EndSession",
    "RunAttempt",
    "Slot",
    "VerifyIdentity",
    "WaitGrace",
    "WaitRetry",
    "WaitSettle",
    "WatchCues",
    "WatchSession",
)


class Slot(StrEnum):
    """What can be under way at once; of each kind at most one."""

    ATTEMPT = "attempt"
    END = "end"
    WATCH = "watch"
    VERIFY = "verify"
    GRACE = "grace"
    SETTLE = "settle"
    RETRY = "retry"
    CUE = "cue"


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """An attempt as the core knows it."""

    id: str
    number: int
    """Counts since the last stable connection, from 1."""
    trigger: Trigger
    address: str | None = None
    """Asked for by a request, for this attempt alone."""


@dataclass(frozen=True, slots=True)
class RunAttempt:
    """Walk the candidates until one is attached. Answer: AttemptSucceeded or AttemptFailed."""

    SLOT: ClassVar = Slot.ATTEMPT
    epoch: int
    attempt: AttemptRef
    unreachable_s: float | None = None
    """Since when all that was tried has been out of reach; None while it is not."""


@dataclass(frozen=True, slots=True)
class EndSession:
    """Cancel what runs and kill and reap what lives. Answer: SessionEnded."""

    SLOT: ClassVar = Slot.END
    epoch: int


@dataclass(frozen=True, slots=True)
class WatchSession:
    """Watch the attachment. Answers: CheckReported, many; SessionExited, last."""

    SLOT: ClassVar = Slot.WATCH
    epoch: int


@dataclass(frozen=True, slots=True)
class VerifyIdentity:
    """Ask the cluster for its id until it tells. Answer: IdentityVerified."""

    SLOT: ClassVar = Slot.VERIFY
    epoch: int


@dataclass(frozen=True, slots=True)
class WaitGrace:
    """Sleep until `until_s`. Answer: GraceElapsed."""

    SLOT: ClassVar = Slot.GRACE
    epoch: int
    until_s: float


@dataclass(frozen=True, slots=True)
class WaitSettle:
    """Sleep until `until_s`. Answer: SettleElapsed."""

    SLOT: ClassVar = Slot.SETTLE
    epoch: int
    until_s: float


@dataclass(frozen=True, slots=True)
class WaitRetry:
    """Sleep until `until_s`. Answer: RetryDue."""

    SLOT: ClassVar = Slot.RETRY
    epoch: int
    until_s: float


@dataclass(frozen=True, slots=True)
class WatchCues:
    """Look for a reason to begin an attempt before its time. Answer: CueSeen."""

    SLOT: ClassVar = Slot.CUE
    epoch: int
    kinds: frozenset[Trigger]
    """What to look for; the one that is seen first is the answer."""
    hold_s: float = 0.0
    """How long an earlier candidate of another cluster must have been good."""
    same_hold_s: float = 0.0
    """The same for one of the cluster that is attached already."""


Command: TypeAlias = (
    RunAttempt
    | EndSession
    | WatchSession
    | VerifyIdentity
    | WaitGrace
    | WaitSettle
    | WaitRetry
    | WatchCues
)
