"""What the checks of an attachment say, and which reasons follow from it. Pure.

Raw reports come in (`CheckReport`), reasons come out (`Health.reasons`), the root cause first.
Hysteresis lives here: a certain fact (a broken stream, a dead process) counts at once, a slow
answer counts at the second miss. While a root cause stands, what merely follows from it is
hidden: a heartbeat cannot pass through a GCS that is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

from castrayd.errors import ErrorType, Fault

__all__ = ("ATTACHMENT_REASONS", "FINAL_REASONS", "Check", "CheckReport", "Health")


class Check(StrEnum):
    """The checks of an attachment, root causes first: a failing one hides its dependants."""

    IDENTITY = "identity"
    GCS = "gcs"
    RAYLET = "raylet"
    SESSION = "session"
    HEARTBEAT = "heartbeat"
    NODES = "nodes"
    CASTERS = "casters"
    PLACE = "place"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One answer, or one miss, of one check."""

    check: Check
    fault: Fault | None
    """None: the check is good."""
    certain: bool = True
    """False for a slow answer, which counts only when a second miss follows."""


FINAL_REASONS: Final = frozenset({ErrorType.LOCAL_NODE_LOST, ErrorType.CLUSTER_REPLACED})
"""A driver never recovers from these: the session is replaced at once, without a grace."""

ATTACHMENT_REASONS: Final = frozenset(
    {
        ErrorType.CONTROL_PLANE_LOST,
        ErrorType.CONTROL_PLANE_TIMEOUT,
        ErrorType.SESSION_UNRESPONSIVE,
        ErrorType.AUTH_REJECTED,
        ErrorType.NOT_RAY,
    }
)
"""These start the grace; when it ends before they do, the session is given up."""

_HIDES: Final[Mapping[Check, frozenset[Check]]] = MappingProxyType(
    {
        Check.IDENTITY: frozenset(Check) - {Check.IDENTITY},
        Check.GCS: frozenset({Check.HEARTBEAT, Check.NODES, Check.CASTERS}),
        Check.RAYLET: frozenset({Check.HEARTBEAT, Check.NODES, Check.CASTERS}),
        Check.SESSION: frozenset({Check.HEARTBEAT, Check.NODES, Check.CASTERS}),
        Check.HEARTBEAT: frozenset({Check.NODES, Check.CASTERS}),
    }
)


@dataclass(frozen=True, slots=True)
class Health:
    """The standing faults of an attachment, by check, and the misses that do not count yet."""

    faults: Mapping[Check, Fault] = field(default_factory=dict)
    misses: Mapping[Check, int] = field(default_factory=dict)

    def updated(self, report: CheckReport) -> "Health":
        """Take one report in; returns the same object when nothing changes."""
        if report.fault is None:
            return self._good(report.check)
        misses = self.misses.get(report.check, 0) + 1
        if not report.certain and misses < _COUNTING_MISS and report.check not in self.faults:
            return replace(self, misses={**self.misses, report.check: misses})
        standing = self.faults.get(report.check)
        if standing is not None and standing.type == report.fault.type:
            return self
        return replace(self, faults={**self.faults, report.check: report.fault})

    def _good(self, check: Check) -> "Health":
        if check not in self.faults and check not in self.misses:
            return self
        return Health(_without(self.faults, check), _without(self.misses, check))

    def reasons(self) -> tuple[Fault, ...]:
        """The faults that count, root cause first, without what merely follows from them."""
        hidden: set[Check] = set()
        shown: list[Fault] = []
        for check in Check:
            fault = self.faults.get(check)
            if fault is not None and check not in hidden:
                shown.append(fault)
                hidden |= _HIDES.get(check, frozenset())
        return tuple(shown)


_COUNTING_MISS: Final = 2
"""One slow answer is noise on a busy host; the second ask follows at once, so two are a fact."""


_V = TypeVar("_V")


def _without(mapping: Mapping[Check, _V], check: Check) -> Mapping[Check, _V]:
    return {key: value for key, value in mapping.items() if key != check}
