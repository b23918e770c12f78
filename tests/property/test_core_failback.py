"""Clusters that come and go, in virtual time: where the core leads an attachment, and how often.

`play` performs the core's commands against a world whose whole day is known beforehand, so the
answer of a command is made when it is ordered. `Story` keeps what came of it; the checks know
nothing of the core but its promises.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castrayd.core import events as e
from castrayd.core.cluster import Place
from castrayd.core.commands import (
    Command,
    EndSession,
    RunAttempt,
    Slot,
    WaitRetry,
    WaitSettle,
    WatchCues,
    WatchSession,
)
from castrayd.core.machine import step
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import State, Trigger
from castrayd.errors import ErrorType, Fault
from tests.unit.test_core_playbook import failure, seen

__all__ = ()

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
END_S: Final = DAY_S + 4 * HOUR_S
"""After the day nothing changes any more: longer than the longest hold."""
ATTEMPT_S, KILL_S = 2.0, 0.5
GAP_S: Final = 60.0 + 2 * ATTEMPT_S + KILL_S
"""The longest backoff, between an attempt that came too early and one that succeeds."""
FALLBACK_S: Final = 60.0
NEVER: Final = inf
REFUSED, EXITED = failure(ErrorType.TCP_REFUSED), seen(ErrorType.SESSION_EXITED)


# --- the world --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """A candidate's cluster, and when it is up."""

    id: str
    spans: tuple[tuple[float, float], ...]
    """From and until, in order and apart."""

    def span(self, at_s: float) -> tuple[float, float] | None:
        """Return the time of being up that holds this moment."""
        index = bisect_right(self.spans, (at_s, inf)) - 1
        if index < 0 or at_s >= self.spans[index][1]:
            return None
        return self.spans[index]

    def up(self, since_s: float, until_s: float) -> bool:
        span = self.span(since_s)
        return span is not None and until_s < span[1]

    def good_at(self, since_s: float, hold_s: float) -> float:
        """When it will first have been up for the hold, watched from that moment."""
        for start_s, end_s in self.spans:
            good_s = max(start_s, since_s) + hold_s
            if good_s < end_s:
                return good_s
        return NEVER

    def longest(self, since_s: float, until_s: float) -> float:
        """For how long it was up at most without a break, in that time."""
        return max((min(b, until_s) - max(a, since_s) for a, b in self.spans), default=0.0)


@dataclass(frozen=True)
class World:
    """Candidates in order of preference, and the draws of chance."""

    clusters: tuple[Cluster, ...]
    jitter: float = 0.5
    local: bool = False
    """Whether a local cluster may be started as a fallback."""

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
    pending: dict[Slot, e.Answer] = field(default_factory=dict)

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
            if isinstance(command, RunAttempt):
                assert not self.live, "a session still lives"
                self.live = True
            elif isinstance(command, EndSession) and self.stays:
                self.stays[-1].until_s = min(self.stays[-1].until_s, event.at_s)
            self.pending[command.SLOT] = self.answer(command, event.at_s)

    def next(self) -> e.Answer:
        """Return what happens next of all that is awaited."""
        awaited = [self.pending[slot] for slot in self.snapshot.awaiting]
        assert awaited, "nothing is tried any more"
        return min(awaited, key=lambda event: event.at_s)

    def answer(self, command: Command, now_s: float) -> e.Answer:
        epoch = command.epoch
        match command:
            case RunAttempt():
                return self.attempted(command, now_s + ATTEMPT_S)
            case EndSession():
                return e.SessionEnded(now_s + KILL_S, epoch, self.world.jitter)
            case WatchSession():
                return e.SessionExited(self.lost_s(now_s), epoch, EXITED)
            case WaitSettle(until_s=until_s):
                return e.SettleElapsed(until_s, epoch)
            case WaitRetry(until_s=until_s):
                return e.RetryDue(until_s, epoch)
            case WatchCues(kinds=kinds) if Trigger.FAILBACK in kinds:
                return e.CueSeen(self.preferred_s(command, now_s), epoch, Trigger.FAILBACK)
            case WatchCues():
                return e.CueSeen(self.returned_s(now_s), epoch, Trigger.CLUSTER_RETURNED)
        raise AssertionError(command)

    def attempted(self, command: RunAttempt, end_s: float) -> e.Answer:
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
        return span[1] if span else NEVER

    def preferred_s(self, command: WatchCues, now_s: float) -> float:
        place = self.stays[-1].place
        return min(
            one.good_at(
                now_s, command.same_hold_s if one.id == place.cluster_id else command.hold_s
            )
            for one in self.world.clusters[: place.rank]
        )

    def returned_s(self, now_s: float) -> float:
        starts = (a for one in self.world.clusters for a, _ in one.spans if a > now_s)
        return min(starts, default=NEVER)


def play(world: World) -> Story:
    """Live through the day, and on until all has come to rest."""
    story = Story(world)
    story.feed(e.Started(0.0))
    while (event := story.next()).at_s < END_S:
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
    begins = [*(stay.since_s for stay in story.stays), END_S]
    for since_s, until_s in zip(ends, begins, strict=True):
        for one in story.world.clusters:
            assert one.longest(since_s, until_s) <= GAP_S
        assert not story.world.local or until_s - since_s <= FALLBACK_S + GAP_S
    for before_s, stay in zip(ends, story.stays, strict=False):
        first = stay.place.fallback and before_s < stay.since_s - FALLBACK_S
        assert first or not stay.place.fallback or _follows_fallback(story, stay)


def _follows_fallback(story: Story, stay: Stay) -> bool:
    """Whether nothing from outside was attached since a fallback that had waited its time."""
    index = story.stays.index(stay)
    return index > 0 and story.stays[index - 1].place.fallback


def check_moves(story: Story) -> None:
    """A move waits for its hold, and no longer; the n-th in a row for twice the one before."""
    moves = 0
    for stay in story.stays:
        holds_s = [
            min(HOUR_S, 2.0**moves - 1 if one.id == stay.place.cluster_id else 60.0 * 2.0**moves)
            for one in story.world.clusters[: stay.place.rank]
        ]
        until_s = min(stay.until_s, END_S)
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
    staying = [rank for rank, one in enumerate(clusters) if one.span(END_S)]
    snapshot = story.snapshot
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

SPELLS_S = st.sampled_from([1.0, 5.0, 30.0, 59.0, 63.0, 130.0, 700.0, 2000.0, 3599.0, 4000.0, 2e4])
PIECES = st.lists(st.tuples(SPELLS_S, SPELLS_S, st.integers(1, 30)), min_size=1, max_size=5)


def _worlds(*ids: str, local: bool = False) -> st.SearchStrategy[World]:
    """Draw a day for each candidate."""
    clusters = [
        st.builds(
            lambda id_, pieces, late_s, stays: cluster(id_, pieces, late_s=late_s, stays=stays),
            st.just(id_),
            PIECES,
            st.just(0.0) | SPELLS_S,
            st.booleans(),
        )
        for id_ in ids
    ]
    jitters = st.sampled_from([0.5, 0.75, 0.99])
    return st.builds(World, st.tuples(*clusters), jitters, st.just(local))


@pytest.mark.parametrize("ids", ["ab", "abc", "aab", "aba"])
def test_any_day_ends_well(ids: str) -> None:
    """Two or three candidates, some of them of one cluster, that come and go at any time."""
    _everyday(_worlds(*ids))


def test_any_day_with_a_fallback_ends_well() -> None:
    """The same where a local cluster is started when all has been out of reach."""
    _everyday(_worlds("a", "b", local=True))


def _everyday(worlds: st.SearchStrategy[World]) -> None:
    @settings(max_examples=40, database=None)
    @given(worlds)
    def run(world: World) -> None:
        check(play(world))

    run()


@settings(max_examples=30, database=None)
@given(up_s=st.floats(0.0, 59.9), down_s=st.floats(1.0, 5000.0), late_s=st.floats(3.0, 100.0))
def test_cluster_that_flaps_faster_than_its_hold_is_not_followed(
    up_s: float, down_s: float, late_s: float
) -> None:
    """The attachment below it does not end once in the day."""
    times = min(2000, int(DAY_S / (up_s + down_s)))
    flapping = cluster("a", [(up_s, down_s, times)], late_s=late_s, stays=False)
    story = play(World((flapping, _ALWAYS)))

    check(story)
    assert [inf] == [stay.until_s for stay in story.stays]


_ALWAYS = Cluster("b", ((0.0, inf),))


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
        (3700.0, 60.0, 22),  # an hour at home each time, so that the hold starts anew
    ],
)
def test_moves_to_a_flapping_cluster_are_few(up_s: float, down_s: float, moves: int) -> None:
    """Over a day in which it is up and down for so long each; the other one always stays."""
    times = int(DAY_S / (up_s + down_s))
    story = play(World((cluster("a", [(up_s, down_s, times)], stays=False), _ALWAYS)))

    check(story)
    assert moves == sum(stay.moved for stay in story.stays)
