"""The stopwatch of an attempt, on a clock that the test turns."""

import pytest

from castrayd.core.phases import PhaseClock
from castrayd.errors import Phase


class _Hand:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_phases_are_timed_in_order() -> None:
    """Each phase has its own seconds; one that was not reached is absent."""
    hand = _Hand()
    clock = PhaseClock(hand)
    for phase, seconds in ((Phase.RESOLVE, 0.5), (Phase.TCP, 2.0)):
        with clock.phase(phase):
            hand.now_s += seconds
        hand.now_s += 10.0  # between phases nobody counts

    assert [(Phase.RESOLVE, 0.5), (Phase.TCP, 2.0)] == list(clock.durations.items())


def test_failed_phase_keeps_its_time_to_failure() -> None:
    """The exception goes on its way, and the time is kept."""
    hand = _Hand()
    clock = PhaseClock(hand)

    def fail() -> None:
        with clock.phase(Phase.TCP):
            hand.now_s += 1.25
            raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        fail()
    assert {Phase.TCP: 1.25} == clock.durations


def test_phase_entered_twice_adds_up() -> None:
    """A second try within one attempt is part of the same phase."""
    hand = _Hand()
    clock = PhaseClock(hand)
    for _ in range(2):
        with clock.phase(Phase.INIT):
            hand.now_s += 3.0

    assert {Phase.INIT: 6.0} == clock.durations


def test_phase_under_way_is_not_counted_yet() -> None:
    """A phase has a time when it has ended."""
    clock = PhaseClock(_Hand())
    with clock.phase(Phase.SPAWN):
        assert {} == clock.durations
