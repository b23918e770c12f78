"""Facts that the core is told, in the past tense. Frozen; each carries when it happened.

A fact that answers a command carries the command's epoch and names its `SLOT`; `machine.step`
drops it when the snapshot does not await that epoch any more.
"""

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from castrayd.core.cluster import Place
from castrayd.core.commands import Slot
from castrayd.core.health import CheckReport
from castrayd.core.states import Trigger
from castrayd.errors import Fault

__all__ = (
    "ANSWERS",
    "EVENTS",
    "REQUESTS",
    "AttemptFailed",
    "AttemptSucceeded",
    "CheckReported",
    "ConfigReloaded",
    "CueSeen",
    "Event",
    "GraceElapsed",
    "IdentityVerified",
    "PauseRequested",
    "ReconnectRequested",
    "Request",
    "ResumeRequested",
    "RetryDue",
    "SessionEnded",
    "SessionExited",
    "SettleElapsed",
    "Started",
    "StopRequested",
)


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon is up; told once, first of all."""

    at_s: float
    """Monotonic seconds, as in every event."""


@dataclass(frozen=True, slots=True)
class ReconnectRequested:
    """An operator asks for an attempt now."""

    at_s: float
    address: str | None = None
    """Tried once instead of the configured candidates, never stored."""


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """An operator wants no attachment."""

    at_s: float


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """An operator wants the attachment back."""

    at_s: float


@dataclass(frozen=True, slots=True)
class ConfigReloaded:
    """New settings are in force."""

    at_s: float
    reconnect: bool
    """The session that there is does not fit them."""
    rank: int = 0
    """How many candidates are now preferred to the one that is attached."""
    fallback: bool = False
    """Whether that one is a local cluster in the place of what is configured."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The daemon is to end."""

    at_s: float


@dataclass(frozen=True, slots=True)
class AttemptSucceeded:
    """A session has joined, its cluster is verified and its node map loaded."""

    SLOT: ClassVar = Slot.ATTEMPT
    at_s: float
    epoch: int
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """Every candidate failed; nothing of the attempt is left."""

    SLOT: ClassVar = Slot.ATTEMPT
    at_s: float
    epoch: int
    fault: Fault
    """That of the candidate that decided."""
    jitter: float
    """Drawn by the shell, in [0.5, 1): the part of the backoff ceiling to wait."""
    others: tuple[Fault, ...] = ()
    """Those of the other candidates."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """Nothing of the attempt or session is left: the process is reaped."""

    SLOT: ClassVar = Slot.END
    at_s: float
    epoch: int
    jitter: float


@dataclass(frozen=True, slots=True)
class SessionExited:
    """The session's process ended by itself, or was killed by somebody else."""

    SLOT: ClassVar = Slot.WATCH
    at_s: float
    epoch: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class CheckReported:
    """A check of the attachment gave an answer or missed one."""

    SLOT: ClassVar = Slot.WATCH
    at_s: float
    epoch: int
    report: CheckReport


@dataclass(frozen=True, slots=True)
class IdentityVerified:
    """The cluster was asked for its id again, after its control plane came back."""

    SLOT: ClassVar = Slot.VERIFY
    at_s: float
    epoch: int
    fault: Fault | None
    """None: the same cluster; else `cluster_replaced`."""


@dataclass(frozen=True, slots=True)
class GraceElapsed:
    """An attachment reason has lasted as long as it may."""

    SLOT: ClassVar = Slot.GRACE
    at_s: float
    epoch: int


@dataclass(frozen=True, slots=True)
class SettleElapsed:
    """The attachment is old enough for service reasons to count."""

    SLOT: ClassVar = Slot.SETTLE
    at_s: float
    epoch: int


@dataclass(frozen=True, slots=True)
class RetryDue:
    """The wait before the next attempt is over."""

    SLOT: ClassVar = Slot.RETRY
    at_s: float
    epoch: int


@dataclass(frozen=True, slots=True)
class CueSeen:
    """There is a reason not to wait: a cluster is back, or new, or preferred; or a token is new."""

    SLOT: ClassVar = Slot.CUE
    at_s: float
    epoch: int
    trigger: Trigger


Request: TypeAlias = (
    Started | ReconnectRequested | PauseRequested | ResumeRequested | ConfigReloaded | StopRequested
)
Answer: TypeAlias = (
    AttemptSucceeded
    | AttemptFailed
    | SessionEnded
    | SessionExited
    | CheckReported
    | IdentityVerified
    | GraceElapsed
    | SettleElapsed
    | RetryDue
    | CueSeen
)
Event: TypeAlias = Request | Answer

REQUESTS: tuple[type[Request], ...] = Request.__args__
ANSWERS: tuple[type[Answer], ...] = Answer.__args__
EVENTS: tuple[type[Event], ...] = REQUESTS + ANSWERS
