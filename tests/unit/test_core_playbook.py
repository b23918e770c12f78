"""The playbook: scenarios of the core as lines of `book >> fact << order`, and its own tests.

The other tests of the core import it. It fills in what a reader does not care for: the time (its
own clock) and the epoch (that of the last command of the answer's slot).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Self

import pytest

from castrayd.core.commands import Command, RunAttempt, Slot, WaitSettle, WatchSession
from castrayd.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CheckReported,
    PauseRequested,
    SessionEnded,
    SettleElapsed,
    Started,
)
from castrayd.core.health import Check, CheckReport
from castrayd.core.machine import step
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import State, Trigger
from castrayd.errors import ERROR_CLASSES, ErrorType, Fault, Phase

__all__ = (
    "Part",
    "Playbook",
    "attached",
    "bad",
    "failure",
    "good",
    "order",
    "seen",
    "settled",
    "tell",
)

JITTER = 0.5
"""Of answers that a scenario does not give one: the shortest wait."""


@dataclass(frozen=True, slots=True)
class Part:
    """An event or a command, as far as a scenario cares."""

    kind: type
    fields: dict[str, Any]


def tell(kind: type, **fields: Any) -> Part:
    """Name an event for `>>`; time, epoch and jitter may be left out."""
    return Part(kind, fields)


def order(kind: type, **fields: Any) -> Part:
    """Name a command for `<<`: fields of the command or of its attempt, those that matter."""
    return Part(kind, fields)


@dataclass(slots=True)
class Playbook:
    """One run of the machine, told line by line."""

    policy: Policy = field(default_factory=Policy)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot("run"))
    now_s: float = 0.0
    unread: list[Command] = field(default_factory=list)
    """Commands of the last event that no `<<` has named yet."""
    epochs: dict[Slot, int] = field(default_factory=dict)

    def at(self, now_s: float) -> Self:
        """Set the clock, in seconds."""
        self.now_s = now_s
        return self

    def after(self, seconds: float) -> Self:
        """Let time pass."""
        return self.at(self.now_s + seconds)

    def __rshift__(self, part: Part) -> Self:
        """Feed an event; every command of the one before must have been named."""
        assert [] == self.unread
        self.snapshot, commands = step(self.snapshot, self._event(part), self.policy)
        self.unread = list(commands)
        self.epochs |= {command.SLOT: command.epoch for command in commands}
        return self

    def _event(self, part: Part) -> Any:
        names = {one.name for one in fields(part.kind)}
        filled: dict[str, Any] = {"at_s": self.now_s}
        if "epoch" in names:
            filled["epoch"] = self.epochs.get(part.kind.SLOT, 0)  # type: ignore[attr-defined]
        if "jitter" in names:
            filled["jitter"] = JITTER
        return part.kind(**filled | part.fields)

    def __lshift__(self, part: Part) -> Self:
        """Expect the next command."""
        assert self.unread, f"expected {part}, and nothing was ordered"
        command = self.unread.pop(0)
        source: Any = command.attempt if isinstance(command, RunAttempt) else command
        found = {name: getattr(source, name, None) for name in part.fields}
        assert (part.kind, part.fields) == (type(command), found)
        return self

    def shows(self, state: State, **fields: Any) -> Self:
        """Expect no further command, and a snapshot with these fields."""
        assert [] == self.unread
        found = {name: getattr(self.snapshot, name) for name in fields}
        assert (state, fields) == (self.snapshot.state, found)
        return self

    def awaits(self, *slots: Slot) -> Self:
        """Expect exactly these slots to be under way."""
        assert set(slots) == set(self.snapshot.awaiting)
        return self


def failure(type_: ErrorType, phase: Phase | None = None) -> Fault:
    """Make a fault of an attempt, by default in the first phase in which it can appear."""
    return Fault.of(type_, phase or ERROR_CLASSES[type_].phases[0], "of a test")


def seen(type_: ErrorType) -> Fault:
    """Make a fault of an attachment."""
    return failure(type_, Phase.ATTACHED)


def bad(check: Check, type_: ErrorType, *, certain: bool = True) -> Part:
    """Name the report of a check that found something."""
    return tell(CheckReported, report=CheckReport(check, seen(type_), certain))


def good(check: Check) -> Part:
    """Name the report of a check that is well."""
    return tell(CheckReported, report=CheckReport(check, None))


def attached(policy: Policy | None = None) -> Playbook:
    """Begin at time 0 with a first attempt that succeeds at once."""
    book = Playbook(policy or Policy()) >> tell(Started) << order(RunAttempt)
    return book >> tell(AttemptSucceeded) << order(WatchSession) << order(WaitSettle)


def settled(at_s: float = 10.0) -> Playbook:
    """Go on from `attached` until service reasons count."""
    return attached().at(at_s) >> tell(SettleElapsed)


# --- the playbook itself ----------------------------------------------------------------------


def _unnamed_command() -> None:
    Playbook() >> tell(Started) >> tell(PauseRequested)


def _unnamed_command_at_the_end() -> None:
    (Playbook() >> tell(Started)).shows(State.DISCOVERING)


def _other_command() -> None:
    Playbook() >> tell(Started) << order(WatchSession)


def _other_field() -> None:
    Playbook() >> tell(Started) << order(RunAttempt, trigger=Trigger.MANUAL)


def _missing_command() -> None:
    Playbook() >> tell(PauseRequested) << order(RunAttempt)


def _other_state() -> None:
    Playbook().shows(State.CONNECTED)


def _other_snapshot() -> None:
    Playbook().shows(State.DISCONNECTED, counted=1)


def _other_slots() -> None:
    Playbook().awaits(Slot.RETRY)


@pytest.mark.parametrize(
    "wrong",
    [
        _unnamed_command,
        _unnamed_command_at_the_end,
        _other_command,
        _other_field,
        _missing_command,
        _other_state,
        _other_snapshot,
        _other_slots,
    ],
)
def test_playbook_with_a_wrong_line_fails(wrong: Callable[[], None]) -> None:
    """A scenario cannot pass over a command, a field or a state that is not as written."""
    with pytest.raises(AssertionError):
        wrong()


def test_playbook_fills_time_epoch_and_jitter() -> None:
    """What a line leaves out comes from the clock, the last command and the default."""
    book = Playbook().at(3.0)
    book.epochs[Slot.END] = 9

    assert SessionEnded(3.0, 9, JITTER) == book._event(tell(SessionEnded))
    assert AttemptFailed(3.0, 4, seen(ErrorType.INTERNAL), 0.75) == book._event(
        tell(AttemptFailed, epoch=4, fault=seen(ErrorType.INTERNAL), jitter=0.75)
    )
