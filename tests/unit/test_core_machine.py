"""The transition table as a whole: the grid of its cells, what they reach, how it is drawn.

`explore` walks every snapshot that differs in more than numbers; `assert_consistent` says what
holds in each. The property tests use the latter too.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pytest

from castrayd.core import machine
from castrayd.core.cluster import Place
from castrayd.core.commands import AttemptRef, Command, Slot
from castrayd.core.effects import abandon
from castrayd.core.events import (
    ANSWERS,
    EVENTS,
    AttemptFailed,
    AttemptSucceeded,
    CheckReported,
    ConfigReloaded,
    CueSeen,
    Event,
    GraceElapsed,
    IdentityVerified,
    PauseRequested,
    ReconnectRequested,
    ResumeRequested,
    RetryDue,
    SessionEnded,
    SessionExited,
    SettleElapsed,
    Started,
    StopRequested,
)
from castrayd.core.health import Check, CheckReport, Health
from castrayd.core.machine import step
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType, InvalidTransitionError
from tests.unit.test_core_playbook import failure, seen

__all__ = ("assert_consistent",)

D, S, C, G = State.DISCONNECTED, State.DISCOVERING, State.CONNECTED, State.DEGRADED
LETTERS = dict(zip("DSCG", (D, S, C, G), strict=True))
RAISES = "-"

GRID = {
    # event:            in D, in S, in C, in G
    Started: ("DS", "-", "-", "-"),
    ReconnectRequested: ("DS", "S", "D", "D"),
    PauseRequested: ("D", "D", "D", "D"),
    ResumeRequested: ("DS", "S", "C", "G"),
    ConfigReloaded: ("DS", "S", "CDG", "CDG"),
    StopRequested: ("D", "D", "D", "D"),
    AttemptSucceeded: ("-", "CG", "-", "-"),
    AttemptFailed: ("-", "D", "-", "-"),
    SessionEnded: ("DS", "S", "-", "DS"),
    SessionExited: ("-", "-", "D", "D"),
    CheckReported: ("-", "-", "CG", "CG"),
    IdentityVerified: ("-", "-", "-", "CG"),
    GraceElapsed: ("-", "-", "-", "D"),
    SettleElapsed: ("-", "-", "CG", "G"),
    RetryDue: ("S", "-", "-", "-"),
    CueSeen: ("S", "-", "D", "D"),
}
CELLS = [
    (state, event, cell)
    for event, row in GRID.items()
    for state, cell in zip((D, S, C, G), row, strict=True)
]

LOST, GONE = seen(ErrorType.CONTROL_PLANE_LOST), seen(ErrorType.LOCAL_NODE_LOST)
SLOW, FEW = seen(ErrorType.CONTROL_PLANE_TIMEOUT), seen(ErrorType.NODES_BELOW_MINIMUM)
REPLACED, EXITED = seen(ErrorType.CLUSTER_REPLACED), seen(ErrorType.SESSION_EXITED)
ATTEMPT = AttemptRef("run-1", 1, Trigger.START)


def _snapshot(state: State, event: type[Event]) -> Snapshot:
    """Make a snapshot in that state which awaits the event, if it is an answer."""
    slot = event.SLOT if event in ANSWERS else None
    attached = state in {C, G}
    return Snapshot(
        "run",
        state,
        epoch=7,
        awaiting={} if slot is None else {slot: 7},
        attempt=None if state is D else ATTEMPT,
        planned=ATTEMPT if slot is Slot.END else None,
        attached_s=0.0 if attached else None,
        place=Place() if attached else None,
        health=Health({Check.GCS: LOST}) if state is G else Health(),
        reasons=(LOST,) if state is G else (),
    )


def _example(event: type[Event]) -> Any:
    fields: dict[type, dict[str, Any]] = {
        ConfigReloaded: {"reconnect": True},
        AttemptFailed: {"fault": failure(ErrorType.TCP_REFUSED), "jitter": 0.5},
        SessionEnded: {"jitter": 0.5},
        SessionExited: {"fault": EXITED},
        CheckReported: {"report": CheckReport(Check.GCS, LOST)},
        IdentityVerified: {"fault": None},
        CueSeen: {"trigger": Trigger.DISCOVERY},
    }
    epoch = {"epoch": 7} if event in ANSWERS else {}
    make: Any = event
    return make(at_s=1.0, **epoch, **fields.get(event, {}))


def test_grid_names_every_event() -> None:
    """A new event needs a decision for each state."""
    assert set(EVENTS) == set(GRID)
    assert len(State) * len(EVENTS) == len(CELLS)


@pytest.mark.parametrize(("state", "event", "cell"), CELLS)
def test_cell_is_as_decided(state: State, event: type[Event], cell: str) -> None:
    """Each pair either has exactly the targets of the grid, or raises."""
    row = machine.TRANSITIONS.get((state, event))
    if cell == RAISES:
        assert row is None
        with pytest.raises(InvalidTransitionError):
            step(_snapshot(state, event), _example(event), Policy())
        return

    assert row is not None
    targets = {LETTERS[letter] for letter in cell}
    assert (targets, len(targets)) == (set(row.targets), len(row.targets))
    changed, _ = step(_snapshot(state, event), _example(event), Policy())
    assert changed.state in targets


def test_target_outside_the_row_raises() -> None:
    """An effect cannot lead where its row does not say: nothing was planned behind this end."""
    orphan = Snapshot("run", S, awaiting={Slot.END: 7}, epoch=7, counted=9)

    with pytest.raises(InvalidTransitionError):
        step(orphan, SessionEnded(0.0, 7, 0.5), Policy())


@pytest.mark.parametrize("event", ANSWERS)
@pytest.mark.parametrize("awaiting", [{}, dict.fromkeys(Slot, 8)], ids=["none", "newer"])
def test_answer_that_is_not_awaited_is_dropped_everywhere(
    event: type[Event], awaiting: dict[Slot, int]
) -> None:
    """Before the table is asked, so that a late answer cannot even raise."""
    for state in State:
        snapshot = Snapshot("run", state, epoch=8, awaiting=awaiting)
        changed, commands = step(snapshot, _example(event), Policy())

        assert snapshot is changed
        assert () == commands


# --- everything that can be reached -----------------------------------------------------------


def assert_consistent(snapshot: Snapshot) -> None:
    """What holds between any two events, once `Started` was told."""
    state, slots = snapshot.state, set(snapshot.awaiting)
    ending, attached = Slot.END in slots, state in {C, G}
    wanted = snapshot.desired is Desired.UP and not snapshot.stopping
    assert slots - _BESIDE[state] in _AWAITED[state]
    assert (
        not attached
        or ending
        or (snapshot.place is not None and snapshot.place.rank == 0)
        or (Slot.CUE in slots)
    )
    assert (snapshot.place is not None) == attached
    assert wanted or (state is D and slots <= {Slot.END})
    assert not wanted or slots, "nothing is under way, nothing is due, and it is wanted"
    assert snapshot.planned is None or (ending and wanted)
    assert not (state is S and ending) or snapshot.planned is not None
    assert (snapshot.retry_at_s is not None) == (Slot.RETRY in slots)
    assert (snapshot.attached_s is not None) == attached
    assert (snapshot.attempt is not None) == (attached or state is S)
    assert (Slot.SETTLE in slots) == (attached and not ending and not snapshot.settled)
    assert attached or (not snapshot.settled and snapshot.health == Health())
    assert bool(snapshot.reasons) == (state is G)
    assert state is not C or snapshot.error is None
    assert state is not G or snapshot.error == snapshot.reasons[0]
    assert len(slots) == len(set(snapshot.awaiting.values()))
    assert all(epoch <= snapshot.epoch for epoch in snapshot.awaiting.values())


_AWAITED: dict[State, list[set[Slot]]] = {
    D: [set(), {Slot.END}, {Slot.RETRY}, {Slot.RETRY, Slot.CUE}],
    S: [{Slot.ATTEMPT}, {Slot.END}],
    C: [{Slot.WATCH}],
    G: [
        {Slot.END},
        {Slot.WATCH},
        {Slot.WATCH, Slot.GRACE},
        {Slot.WATCH, Slot.GRACE, Slot.VERIFY},
    ],
}

_BESIDE: dict[State, set[Slot]] = {
    D: set(),
    S: set(),
    C: {Slot.SETTLE, Slot.CUE},
    G: {Slot.SETTLE, Slot.CUE},
}
"""What may be under way besides, in each state."""

Edge = tuple[Snapshot, Event, Snapshot, tuple[Command, ...]]


def _requests(at_s: float) -> Iterator[Event]:
    yield ReconnectRequested(at_s)
    yield ReconnectRequested(at_s, "b:2")
    yield PauseRequested(at_s)
    yield ResumeRequested(at_s)
    yield ConfigReloaded(at_s, reconnect=True)
    yield ConfigReloaded(at_s, reconnect=False)
    yield ConfigReloaded(at_s, reconnect=False, rank=1)
    yield ConfigReloaded(at_s, reconnect=False, rank=1, fallback=True)
    yield StopRequested(at_s)


def _answers(slot: Slot, epoch: int, at_s: float) -> Iterator[Event]:
    match slot:
        case Slot.ATTEMPT:
            yield AttemptSucceeded(at_s, epoch, Place(0, "a"))
            yield AttemptSucceeded(at_s, epoch, Place(1, "b"))
            yield AttemptFailed(at_s, epoch, failure(ErrorType.TCP_REFUSED), 0.5)
            yield AttemptFailed(at_s, epoch, failure(ErrorType.INIT_FAILED), 0.5)
        case Slot.END:
            yield SessionEnded(at_s, epoch, 0.5)
        case Slot.WATCH:
            yield SessionExited(at_s, epoch, EXITED)
            for report in _REPORTS:
                yield CheckReported(at_s, epoch, report)
        case Slot.VERIFY:
            yield IdentityVerified(at_s, epoch, None)
            yield IdentityVerified(at_s, epoch, REPLACED)
        case Slot.GRACE:
            yield GraceElapsed(at_s, epoch)
        case Slot.SETTLE:
            yield SettleElapsed(at_s, epoch)
        case Slot.RETRY:
            yield RetryDue(at_s, epoch)
        case Slot.CUE:
            yield CueSeen(at_s, epoch, Trigger.CLUSTER_RETURNED)
            yield CueSeen(at_s, epoch, Trigger.FAILBACK)


_REPORTS = (
    CheckReport(Check.GCS, LOST),
    CheckReport(Check.GCS, SLOW, certain=False),
    CheckReport(Check.GCS, None),
    CheckReport(Check.RAYLET, GONE),
    CheckReport(Check.NODES, FEW),
    CheckReport(Check.NODES, None),
)


def _kind(snapshot: Snapshot, at_s: float) -> tuple[object, ...]:
    """Tell snapshots apart by more than numbers."""
    stable = snapshot.attached_s is not None and at_s - snapshot.attached_s >= 30.0
    return (
        snapshot.state,
        snapshot.desired,
        snapshot.stopping,
        frozenset(snapshot.awaiting),
        min(snapshot.counted, 2),
        snapshot.attempt and snapshot.attempt.address,
        snapshot.planned and snapshot.planned.address,
        snapshot.settled,
        snapshot.place and (snapshot.place.rank, snapshot.place.fallback),
        frozenset(snapshot.health.faults.items()),
        frozenset(snapshot.health.misses.items()),
        snapshot.reasons,
        stable,
    )


def explore() -> Iterator[Edge]:
    """Walk breadth first through every kind of snapshot; each answer comes soon or late."""
    first = Snapshot("run")
    started = step(first, Started(0.0), Policy())
    yield (first, Started(0.0), *started)
    paused = Snapshot("run", desired=Desired.PAUSED)
    yield (paused, Started(0.0), *step(paused, Started(0.0), Policy()))
    queue, known = deque([(started[0], 0.0)]), {_kind(started[0], 0.0)}
    while queue:
        snapshot, now_s = queue.popleft()
        for event in _events(snapshot, now_s):
            changed, commands = step(snapshot, event, Policy())
            yield snapshot, event, changed, commands
            kind = _kind(changed, event.at_s)
            if kind not in known:
                known.add(kind)
                queue.append((changed, event.at_s))


def _events(snapshot: Snapshot, now_s: float) -> Iterator[Event]:
    for at_s in (now_s, now_s + 40.0):
        yield from _requests(at_s)
        for slot, epoch in snapshot.awaiting.items():
            yield from _answers(slot, epoch, at_s)


@cache
def _explored() -> tuple[Edge, ...]:
    return tuple(explore())


def _kinds() -> Iterator[tuple[Snapshot, float]]:
    """One snapshot of each kind that was reached, and the time in it."""
    kinds = {_kind(after, event.at_s): (after, event.at_s) for _, event, after, _ in _explored()}
    yield from kinds.values()


def test_every_target_of_the_table_is_reached_and_nothing_else() -> None:
    """The table promises nothing that cannot happen, and no walk leaves it."""
    reached = {(before.state, type(event), after.state) for before, event, after, _ in _explored()}
    promised = {
        (state, event, LETTERS[letter])
        for state, event, cell in CELLS
        if cell != RAISES
        for letter in cell
    }

    assert promised == reached


def test_every_snapshot_that_is_reached_is_consistent() -> None:
    """No walk makes a snapshot that contradicts itself."""
    for _, _, after, _ in _explored():
        assert_consistent(after)


def test_every_order_is_awaited_with_its_own_epoch() -> None:
    """What is ordered is awaited, with an epoch that was never used before."""
    for before, _, after, commands in _explored():
        epochs = [command.epoch for command in commands]

        assert list(range(before.epoch + 1, before.epoch + 1 + len(commands))) == epochs
        for command in commands:
            assert command.epoch == after.awaiting[command.SLOT]


def test_every_state_can_be_left_for_rest() -> None:
    """From everywhere a stop leads to the end, with one answer at most."""
    for snapshot, at_s in _kinds():
        stopped, _ = step(snapshot, StopRequested(at_s), Policy())
        end = SessionEnded(at_s, stopped.awaiting[Slot.END], 0.5)
        stopped, commands = step(stopped, end, Policy())

        assert ((), {}, D) == (commands, stopped.awaiting, stopped.state)


def test_every_state_can_be_abandoned() -> None:
    """After a bug anywhere: disconnected, one end under way, nothing that contradicts itself."""
    for snapshot, at_s in _kinds():
        abandoned, commands = abandon(snapshot, at_s, seen(ErrorType.INTERNAL), Policy())

        assert_consistent(abandoned)
        assert (D, {Slot.END}) == (abandoned.state, set(abandoned.awaiting))
        assert bool(commands) != snapshot.ending


# --- the drawing ------------------------------------------------------------------------------


def _arrows(diagram: str) -> Iterable[tuple[str, str, str]]:
    for line in diagram.splitlines()[2:]:
        source, _, rest = line.strip().partition(" --> ")
        target, _, events = rest.partition(": ")
        for event in events.split(", "):
            yield source, event, target


def test_diagram_draws_each_row_that_changes_the_state() -> None:
    """One arrow for each pair of states, naming every event that leads there, and no other."""
    expected = {
        (str(state), event.__name__, str(LETTERS[letter]))
        for state, event, cell in CELLS
        if cell != RAISES
        for letter in cell
        if LETTERS[letter] is not state
    }

    assert expected == set(_arrows(machine.diagram()))


def test_diagram_begins_disconnected_and_reaches_every_state() -> None:
    """It is mermaid, and nothing in it hangs in the air."""
    head, start, *_ = machine.diagram().splitlines()
    reached = {"disconnected"}
    while new := {t for s, _, t in _arrows(machine.diagram()) if s in reached} - reached:
        reached |= new

    assert ("stateDiagram-v2", "[*] --> disconnected") == (head, start.strip())
    assert {str(state) for state in State} == reached
