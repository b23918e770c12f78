"""Clusters that come and go, in virtual time: where the core leads an attachment, and how often.

`play` performs the core's commands against a world whose whole day is known beforehand, so the
answer of a command is made when it is ordered. `Story` keeps what came of it; the checks know
nothing of the core but its promises.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, takewhile
from math import inf
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.property.core_place_seeds  # noqa: F401  it enters its faults
from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.cluster import Place
from castrayd.core.machine import step
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import State, Trigger
from castrayd.errors import ErrorType, Fault
from tests.property.core_seeds import FAULTS, Seeder
from tests.unit.test_core_playbook import failure, seen

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
ATTEMPT_S, KILL_S = 2.0, 0.5
GAP_S: Final = 60.0 + 2 * ATTEMPT_S + KILL_S
"""The longest backoff, between an attempt that came too early and one that succeeds."""
FALLBACK_S: Final = 60.0
REFUSED, EXITED = failure(ErrorType.TCP_REFUSED), seen(ErrorType.SESSION_EXITED)


# --- the world --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """A candidate's cluster, and when it is up."""

    id: str
    spans: tuple[tuple[float, float], ...]
    """From and until, in order and apart."""

    def near(self, at_s: float) -> Iterator[tuple[float, float]]:
        """Yield the times of being up from the one that holds this moment, or the next."""
        first = bisect_right(self.spans, at_s, key=lambda span: span[1])
        return islice(self.spans, first, None)

    def span(self, at_s: float) -> tuple[float, float] | None:
        """Return the time of being up that holds this moment."""
        span = next(self.near(at_s), None)
        return span if span and span[0] <= at_s else None

    def up(self, since_s: float, until_s: float) -> bool:
        span = self.span(since_s)
        return span is not None and until_s < span[1]

    def starts_after(self, at_s: float) -> float:
        return next((start_s for start_s, _ in self.near(at_s) if start_s > at_s), inf)

    def good_at(self, since_s: float, hold_s: float) -> float:
        """When it will first have been up for the hold, watched from that moment."""
        good_s = ((max(start_s, since_s) + hold_s, end_s) for start_s, end_s in self.near(since_s))
        return next((at_s for at_s, end_s in good_s if at_s < end_s), inf)

    def longest(self, since_s: float, until_s: float) -> float:
        """For how long it was up at most without a break, in that time."""
        spans = takewhile(lambda span: span[0] < until_s, self.near(since_s))
        return max((min(b, until_s) - max(a, since_s) for a, b in spans), default=0.0)


@dataclass(frozen=True)
class World:
    """Candidates in order of preference, and the draws of chance."""

    clusters: tuple[Cluster, ...]
    jitter: float = 0.5
    local: bool = False
    """Whether a local cluster may be started as a fallback."""

    @cached_property
    def staying(self) -> list[int]:
        """The candidates that are up in the end, by rank."""
        return [n for n, one in enumerate(self.clusters) if one.spans and one.spans[-1][1] == inf]

    @cached_property
    def end_s(self) -> float:
        """When all has come to rest: after the last change, and the longest hold."""
        changes_s = (s for one in self.clusters for span in one.spans for s in span if s < inf)
        return max(changes_s, default=0.0) + (2 * HOUR_S if self.staying or self.local else 600.0)

    @property
    def policy(self) -> Policy:
        return Policy(fallback_after_s=FALLBACK_S if self.local else None)


def cluster(
    id_: str, pieces: Iterable[tuple[float, float, int]], *, late_s: float = 0.0, stays: bool
) -> Cluster:
    """Let a cluster be up and down for so long, so often, until the day is over."""
    spans, now_s = list[tuple[float, float]](), late_s
    for up_s, down_s, times in pieces:
        for _ in range(times):
            if now_s < DAY_S:
                spans.append((now_s, min(now_s + up_s, DAY_S)))
            now_s += up_s + down_s
    if stays:
        start_s = spans.pop()[0] if spans and spans[-1][1] == DAY_S else DAY_S
        spans.append((start_s, inf))
    return Cluster(id_, tuple(spans))


# --- the shell --------------------------------------------------------------------------------


@dataclass
class Stay:
    """One attachment, from its begin to its end."""

    place: Place
    since_s: float
    until_s: float = inf
    moved: bool = False
    """Whether it was left for a preferred candidate."""


@dataclass
class Story:
    """What came of a day."""

    world: World
    snapshot: Snapshot = field(default_factory=lambda: Snapshot("run"))
    stays: list[Stay] = field(default_factory=list)
    live: bool = False
    """Whether a session may live: from RunAttempt to its failure, or to the end's answer."""
    pending: dict[c.Slot, e.Answer] = field(default_factory=dict)

    def feed(self, event: e.Event) -> None:
        """Let the core hear it, and perform what it orders."""
        match event:
            case e.AttemptSucceeded(place=place):
                self.stays.append(Stay(place, event.at_s))
            case e.AttemptFailed() | e.SessionEnded():
                self.live = False
            case e.CueSeen(trigger=Trigger.FAILBACK):
                self.stays[-1].moved = True
        self.snapshot, commands = step(self.snapshot, event, self.world.policy)
        for command in commands:
            if isinstance(command, c.RunAttempt):
                assert not self.live, "a session still lives"
                self.live = True
            elif isinstance(command, c.EndSession) and self.stays:
                self.stays[-1].until_s = min(self.stays[-1].until_s, event.at_s)
            self.pending[command.SLOT] = self.answer(command, event.at_s)

    def next(self) -> e.Answer:
        """Return what happens next of all that is awaited."""
        awaited = [self.pending[slot] for slot in self.snapshot.awaiting]
        assert awaited, "nothing is tried any more"
        return min(awaited, key=lambda event: event.at_s)

    def answer(self, command: c.Command, now_s: float) -> e.Answer:
        epoch = command.epoch
        match command:
            case c.RunAttempt():
                return self.attempted(command, now_s + ATTEMPT_S)
            case c.EndSession():
                return e.SessionEnded(now_s + KILL_S, epoch, self.world.jitter)
            case c.WatchSession():
                return e.SessionExited(self.lost_s(now_s), epoch, EXITED)
            case c.WaitSettle(until_s=until_s):
                return e.SettleElapsed(until_s, epoch)
            case c.WaitRetry(until_s=until_s):
                return e.RetryDue(until_s, epoch)
        assert isinstance(command, c.WatchCues)
        return self.cued(command, now_s)

    def attempted(self, command: c.RunAttempt, end_s: float) -> e.Answer:
        """Take the first candidate that is up all the while, else the fallback once it is due."""
        began_s = end_s - ATTEMPT_S
        clusters = self.world.clusters
        for rank, one in enumerate(clusters):
            if one.up(began_s, end_s):
                return e.AttemptSucceeded(end_s, command.epoch, Place(rank, one.id))
        since_s = command.unreachable_s
        if self.world.local and since_s is not None and began_s - since_s >= FALLBACK_S:
            local = Place(len(clusters), "local", fallback=True)
            return e.AttemptSucceeded(end_s, command.epoch, local)
        others: tuple[Fault, ...] = (REFUSED,) * (len(clusters) - 1)
        return e.AttemptFailed(end_s, command.epoch, REFUSED, self.world.jitter, others)

    def lost_s(self, now_s: float) -> float:
        place = self.stays[-1].place
        span = None if place.fallback else self.world.clusters[place.rank].span(now_s)
        return span[1] if span else inf

    def cued(self, command: c.WatchCues, now_s: float) -> e.Answer:
        """Tell of a preferred one that was good for the hold; while idle of any that returns."""
        clusters = self.world.clusters
        if Trigger.FAILBACK not in command.kinds:
            due_s = min(one.starts_after(now_s) for one in clusters)
            return e.CueSeen(due_s, command.epoch, Trigger.CLUSTER_RETURNED)
        place, hold_s, same_s = self.stays[-1].place, command.hold_s, command.same_hold_s
        good_s = (
            one.good_at(now_s, same_s if one.id == place.cluster_id else hold_s)
            for one in clusters[: place.rank]
        )
        return e.CueSeen(min(good_s), command.epoch, Trigger.FAILBACK)


def play(world: World) -> Story:
    """Live through the day, and on until all has come to rest."""
    story = Story(world)
    story.feed(e.Started(0.0))
    while (event := story.next()).at_s < world.end_s:
        story.feed(event)
    return story


# --- what is promised -------------------------------------------------------------------------


def check(story: Story) -> None:
    check_gaps(story)
    check_moves(story)
    check_rest(story)
    if len({one.id for one in story.world.clusters}) == len(story.world.clusters):
        check_hours(story)


def check_gaps(story: Story) -> None:
    """Nothing is up for longer than the backoff without being attached to; a fallback neither."""
    ends = [0.0, *(stay.until_s for stay in story.stays)]
    begins = [*(stay.since_s for stay in story.stays), story.world.end_s]
    for since_s, until_s in zip(ends, begins, strict=True):
        for one in story.world.clusters:
            assert one.longest(since_s, until_s) <= GAP_S
        assert not story.world.local or until_s - since_s <= FALLBACK_S + GAP_S
    outside_s = 0.0
    for stay in story.stays:
        if stay.place.fallback:
            assert stay.since_s - outside_s >= FALLBACK_S, "a fallback before its time"
        else:
            outside_s = stay.until_s


def check_moves(story: Story) -> None:
    """A move waits for its hold, and no longer; the n-th in a row for twice the one before."""
    moves = 0
    for stay in story.stays:
        holds_s = [
            min(HOUR_S, 2.0**moves - 1 if one.id == stay.place.cluster_id else 60.0 * 2.0**moves)
            for one in story.world.clusters[: stay.place.rank]
        ]
        until_s = min(stay.until_s, story.world.end_s)
        longest_s = [one.longest(stay.since_s, until_s) for one in story.world.clusters]
        margins_s = [up_s - hold_s for up_s, hold_s in zip(longest_s, holds_s, strict=False)]
        assert max(margins_s, default=-1.0) <= TICK_S, "what is preferred was not followed"
        assert not stay.moved or max(margins_s) >= -TICK_S, "followed before its time"
        if stay.place.rank == 0 and stay.until_s - stay.since_s >= HOUR_S:
            moves = 0
        moves += stay.moved


TICK_S: Final = 1e-3


def check_hours(story: Story) -> None:
    """At most five moves in any hour.

    Between six lie at least 120 + 240 + 480 + 960 + 1920 seconds of waiting, or the hour at the
    preferred cluster after which the hold starts anew.
    """
    moves_s = [stay.until_s for stay in story.stays if stay.moved]
    for first_s, sixth_s in zip(moves_s, moves_s[5:], strict=False):
        assert sixth_s - first_s > HOUR_S


def check_rest(story: Story) -> None:
    """In the end the first of those that stayed is attached, and named where it is not home."""
    clusters = story.world.clusters
    staying, snapshot = story.world.staying, story.snapshot
    if not staying and not story.world.local:
        assert snapshot.state in {State.DISCONNECTED, State.DISCOVERING}
        return
    place = story.stays[-1].place
    assert place == snapshot.place
    assert place.rank == (staying[0] if staying else len(clusters))
    home = _home(story.stays)
    expected = ErrorType.LOCAL_FALLBACK if place.fallback else ErrorType.OTHER_CLUSTER
    reasons = [expected] if place.fallback or place.cluster_id != home else []
    assert reasons == [reason.type for reason in snapshot.reasons]
    assert (State.DEGRADED if reasons else State.CONNECTED) is snapshot.state


def _home(stays: list[Stay]) -> str | None:
    outside = [stay.place for stay in stays if not stay.place.fallback]
    preferred = [place.cluster_id for place in outside if place.rank == 0]
    return next(iter([*reversed(preferred), *(place.cluster_id for place in outside)]), None)


# --- days -------------------------------------------------------------------------------------

DOWN_S = st.sampled_from([1.0, 5.0, 30.0, 61.0, 130.0, 700.0, 2000.0])
UP_S = DOWN_S | st.sampled_from([59.0, 3599.0, 4000.0, 2e4])
PIECES = st.lists(st.tuples(UP_S, DOWN_S, st.integers(1, 12)), min_size=1, max_size=5)


def _worlds(*ids: str, local: bool = False) -> st.SearchStrategy[World]:
    """Draw a day for each candidate."""
    clusters = [
        st.builds(
            lambda id_, pieces, late_s, stays: cluster(id_, pieces, late_s=late_s, stays=stays),
            st.just(id_),
            PIECES,
            st.just(0.0) | DOWN_S,
            st.booleans(),
        )
        for id_ in ids
    ]
    jitters = st.sampled_from([0.5, 0.75, 0.99])
    return st.builds(World, st.tuples(*clusters), jitters, st.just(local))


@pytest.mark.parametrize(
    ("ids", "local"), [("ab", False), ("abc", False), ("aab", False), ("aba", False), ("ab", True)]
)
def test_any_day_ends_well(ids: str, *, local: bool) -> None:
    """Two or three candidates, some of them of one cluster; and with a fallback beside them."""

    @settings(max_examples=20, database=None)
    @given(_worlds(*ids, local=local))
    def run(world: World) -> None:
        check(play(world))

    run()


_ALWAYS = Cluster("b", ((0.0, inf),))


def _flapping(up_s: float, down_s: float, late_s: float = 0.0) -> World:
    """Let the preferred one be up and down for so long each, all day, and the other one stay."""
    times = min(2000, int(DAY_S / (up_s + down_s)))
    return World((cluster("a", [(up_s, down_s, times)], late_s=late_s, stays=False), _ALWAYS))


@settings(max_examples=30, database=None)
@given(up_s=st.floats(0.0, 59.9), down_s=st.floats(1.0, 5000.0), late_s=st.floats(3.0, 100.0))
def test_cluster_that_flaps_faster_than_its_hold_is_not_followed(
    up_s: float, down_s: float, late_s: float
) -> None:
    """The attachment below it does not end once in the day."""
    story = play(_flapping(up_s, down_s, late_s))

    check(story)
    assert [inf] == [stay.until_s for stay in story.stays]


@pytest.mark.parametrize(
    ("up_s", "down_s", "moves"),
    [
        (60.0, 60.0, 0),
        (61.0, 60.0, 1),
        (200.0, 60.0, 2),
        (300.0, 60.0, 3),
        (1000.0, 5.0, 5),
        (3590.0, 60.0, 6),
        (3605.0, 60.0, 22),  # the longest hold is reached, and each time waited for
        (3700.0, 60.0, 21),  # an hour at home each time, so that the hold starts anew
    ],
)
def test_moves_to_a_flapping_cluster_are_few(up_s: float, down_s: float, moves: int) -> None:
    """The number of moves in a day is pinned for each rhythm."""
    story = play(_flapping(up_s, down_s))

    check(story)
    assert moves == sum(stay.moved for stay in story.stays)


# --- the checks themselves --------------------------------------------------------------------

DAYS = (
    _flapping(200, 60),
    _flapping(3700, 60),
    World(
        (cluster("a", [(200, 150, 3), (500, 4000, 4)], stays=True), Cluster("b", ())), local=True
    ),
)
NOTICED = (
    "hold_never_doubles",
    "hold_never_starts_anew",
    "failback_is_not_counted",
    "preferred_is_not_watched_for",
    "other_cluster_never_counts",
    "unreachable_is_cleared_by_no_attachment",
    "unreachable_is_not_told",
)


def test_days_that_faults_are_measured_with_are_sound() -> None:
    """The checks have nothing to say against the core as it is."""
    for day in DAYS:
        check(play(day))


@pytest.mark.parametrize("name", NOTICED)
def test_fault_is_noticed_by_the_checks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They find broken what takes days to show."""
    FAULTS[name](Seeder(monkeypatch))

    with pytest.raises(AssertionError):
        test_days_that_faults_are_measured_with_are_sound()
