"""What reports of checks add up to: hysteresis, root causes, what they hide."""

import itertools

import pytest

from castrayd.core.health import ATTACHMENT_REASONS, FINAL_REASONS, Check, CheckReport, Health
from castrayd.errors import ErrorType, Fault
from tests.unit.test_core_playbook import seen

LOST = seen(ErrorType.CONTROL_PLANE_LOST)
SLOW = seen(ErrorType.CONTROL_PLANE_TIMEOUT)
ROOT_FIRST = (
    Check.IDENTITY,
    Check.GCS,
    Check.RAYLET,
    Check.SESSION,
    Check.HEARTBEAT,
    Check.NODES,
    Check.CASTERS,
    Check.PLACE,
)
HIDDEN = {
    Check.IDENTITY: set(Check) - {Check.IDENTITY},
    Check.GCS: {Check.HEARTBEAT, Check.NODES, Check.CASTERS},
    Check.RAYLET: {Check.HEARTBEAT, Check.NODES, Check.CASTERS},
    Check.SESSION: {Check.HEARTBEAT, Check.NODES, Check.CASTERS},
    Check.HEARTBEAT: {Check.NODES, Check.CASTERS},
    Check.NODES: set(),
    Check.CASTERS: set(),
    Check.PLACE: set(),
}


def _health(*reports: tuple[Check, Fault | None, bool]) -> Health:
    health = Health()
    for check, fault, certain in reports:
        health = health.updated(CheckReport(check, fault, certain))
    return health


@pytest.mark.parametrize(
    ("misses", "expected"),
    [
        ([LOST], (LOST,)),
        ([SLOW], ()),
        ([SLOW, SLOW], (SLOW,)),
        ([SLOW, None, SLOW], ()),
        ([SLOW, None, SLOW, SLOW], (SLOW,)),
        ([SLOW, LOST], (LOST,)),
        ([LOST, SLOW], (SLOW,)),
        ([LOST, None], ()),
        ([LOST, None, SLOW], ()),
        ([SLOW, SLOW, None], ()),
        ([None], ()),
    ],
)
def test_hysteresis_counts_the_second_slow_answer(
    misses: list[Fault | None], expected: tuple[Fault, ...]
) -> None:
    """Certain facts count at once, slow answers at the second in a row, a good one clears both."""
    health = _health(*((Check.GCS, fault, fault is LOST) for fault in misses))

    assert expected == health.reasons()


def test_misses_are_counted_for_each_check() -> None:
    """One slow answer of each of two checks is not two of one."""
    health = _health((Check.GCS, SLOW, False), (Check.RAYLET, SLOW, False))

    assert () == health.reasons()


def test_good_report_clears_its_own_check_alone() -> None:
    """A raylet that answers says nothing of the GCS."""
    health = _health((Check.GCS, LOST, True), (Check.RAYLET, None, True))

    assert (LOST,) == health.reasons()


@pytest.mark.parametrize(
    ("health", "fault"),
    [(Health(), None), (_health((Check.GCS, LOST, True)), LOST)],
    ids=["good again", "bad again"],
)
def test_report_without_news_returns_the_same_health(health: Health, fault: Fault | None) -> None:
    """The machine sees by identity that nothing changed."""
    assert health is health.updated(CheckReport(Check.GCS, fault))


def test_standing_fault_keeps_its_first_words() -> None:
    """The same class with another message is no news: status does not flicker."""
    health = _health((Check.GCS, LOST, True))
    other = Fault.of(LOST.type, LOST.phase, "with other words")

    assert health is health.updated(CheckReport(Check.GCS, other))


def test_checks_are_listed_root_causes_first() -> None:
    """The order of `Check` is the order in which reasons are shown."""
    assert ROOT_FIRST == tuple(Check)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(Check, 2)))
def test_reasons_show_roots_first_and_hide_what_follows(first: Check, second: Check) -> None:
    """Whatever the order of the reports: the root leads, its dependants wait behind it."""
    faults = {check: Fault.of(LOST.type, LOST.phase, check) for check in Check}
    health = _health((first, faults[first], True), (second, faults[second], True))
    root, other = sorted((first, second), key=ROOT_FIRST.index)
    expected = (faults[root],) if other in HIDDEN[root] else (faults[root], faults[other])

    assert expected == health.reasons()


def test_hidden_fault_hides_its_dependants_too() -> None:
    """Identity hides the GCS, and with it all that follows; each shows when its root is gone."""
    faults = [(check, Fault.of(LOST.type, LOST.phase, check), True) for check in Check]
    shown = []
    health = _health(*faults)
    for check in Check:
        shown.append([fault.message for fault in health.reasons()])
        health = health.updated(CheckReport(check, None))

    assert [
        ["identity"],
        ["gcs", "raylet", "session", "place"],
        ["raylet", "session", "place"],
        ["session", "place"],
        ["heartbeat", "place"],
        ["nodes", "casters", "place"],
        ["casters", "place"],
        ["place"],
    ] == shown
    assert () == health.reasons()


def test_final_and_attachment_reasons_are_apart() -> None:
    """A reason either has a grace or has none; service reasons are neither."""
    assert not FINAL_REASONS & ATTACHMENT_REASONS
    assert ErrorType.NODES_BELOW_MINIMUM not in FINAL_REASONS | ATTACHMENT_REASONS
