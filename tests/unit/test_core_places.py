"""Where an attachment stands among the candidates, and what follows; DESIGN's sequences 4 and 7."""

import pytest

from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.cluster import Place
from castrayd.core.health import Check
from castrayd.core.policy import FailbackPolicy, Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import State, Trigger
from castrayd.errors import ErrorType, Fault
from tests.unit.test_core_playbook import Playbook, bad, failure, good, order, seen, tell

PREFERRED, LOWER, LOWEST = Place(0, "a"), Place(1, "b"), Place(2, "c")
LOCAL = Place(2, "local", fallback=True)
EXITED = seen(ErrorType.SESSION_EXITED)
REFUSED = failure(ErrorType.TCP_REFUSED)
REJECTED = failure(ErrorType.AUTH_REJECTED)
OTHER, FALLBACK = ErrorType.OTHER_CLUSTER, ErrorType.LOCAL_FALLBACK
FEW = ErrorType.NODES_BELOW_MINIMUM
HOUR_S = 3600.0


# --- shorthand --------------------------------------------------------------------------------


def _attach(book: Playbook, place: Place, **cues: object) -> Playbook:
    """Attach; at a lower place name what is known of the watch for a preferred one."""
    book >> tell(e.AttemptSucceeded, place=place) << order(c.WatchSession) << order(c.WaitSettle)
    return book << order(c.WatchCues, kinds={Trigger.FAILBACK}, **cues) if place.rank else book


def _at(*places: Place, policy: Policy | None = None) -> Playbook:
    """Attach to one place after the other, each settled and then lost to the next."""
    book = Playbook(policy or Policy()) >> tell(e.Started) << order(c.RunAttempt)
    _settle(_attach(book, places[0]))
    for place in places[1:]:
        _settle(_attach(_lose(book.after(60.0)), place))
    return book


def _settle(book: Playbook) -> Playbook:
    return book.after(10.0) >> tell(e.SettleElapsed)


def _lose(book: Playbook) -> Playbook:
    """Let a stable session exit; the next attempt begins at once."""
    book >> tell(e.SessionExited, fault=EXITED) << order(c.EndSession)
    return book >> tell(e.SessionEnded) << order(c.RunAttempt, trigger=Trigger.SESSION_LOST)


def _fail_back(book: Playbook) -> Playbook:
    """Break, then make."""
    book >> tell(e.CueSeen, trigger=Trigger.FAILBACK) << order(c.EndSession)
    book.shows(State.DISCONNECTED, attached_s=None, place=None, reasons=()).awaits(c.Slot.END)
    return book >> tell(e.SessionEnded) << order(c.RunAttempt, trigger=Trigger.FAILBACK)


def _reasons(book: Playbook) -> list[ErrorType]:
    """Return the types of what degrades the attachment; the state must agree."""
    reasons = book.snapshot.reasons
    book.shows(State.DEGRADED if reasons else State.CONNECTED)
    assert (reasons[0] if reasons else None) == book.snapshot.error
    return [reason.type for reason in reasons]


def _fail(book: Playbook, *faults: Fault, seconds: float = 0.0) -> float:
    """Let the attempt fail after a while; returns when the next one is due."""
    fault, *others = faults or (REFUSED,)
    book.after(seconds) >> tell(e.AttemptFailed, fault=fault, others=tuple(others), jitter=1.0)
    book << order(c.WaitRetry, until_s=book.snapshot.retry_at_s) << order(c.WatchCues)
    return book.snapshot.retry_at_s or 0.0


def _run(book: Playbook, **fields: object) -> float | None:
    """Name the next command, a RunAttempt; returns since when all has been out of reach."""
    command = book.unread[0]
    book << order(c.RunAttempt, **fields)
    assert isinstance(command, c.RunAttempt)
    return command.unreachable_s


def _retry(book: Playbook) -> float | None:
    return _run(book.at(book.snapshot.retry_at_s or 0.0) >> tell(e.RetryDue))


# --- what is preferred is watched for ---------------------------------------------------------


@pytest.mark.parametrize("place", [PREFERRED, Place(0, None), LOWER, LOCAL, Place(1, None)])
def test_lower_place_watches_for_what_is_preferred(place: Place) -> None:
    """While a candidate is preferred to the one attached, its return is looked for."""
    book = Playbook() >> tell(e.Started) << order(c.RunAttempt)
    _attach(book, place, hold_s=60.0, same_hold_s=0.0)
    book.shows(State.DEGRADED if place.fallback else State.CONNECTED, place=place)

    book.awaits(c.Slot.WATCH, c.Slot.SETTLE, *({c.Slot.CUE} if place.rank else ()))


# --- other_cluster ----------------------------------------------------------------------------


def test_other_cluster_counts_at_once() -> None:
    """Lost to a lower candidate's cluster: never connected there, for it does not settle."""
    book = _attach(_lose(_at(PREFERRED).after(60.0)), LOWER)
    assert [OTHER] == _reasons(book.after(9.9) >> bad(Check.NODES, FEW))
    book >> good(Check.NODES)

    assert [OTHER] == _reasons(_settle(book))
    assert "cluster b instead of a" in book.snapshot.reasons[0].message
    book.shows(State.DEGRADED, home="a")


def test_other_cluster_never_costs_the_session() -> None:
    """For hours nothing is ended, and no grace runs."""
    book = _at(PREFERRED, LOWER).after(12 * HOUR_S) >> bad(Check.NODES, FEW)

    assert [FEW, OTHER] == _reasons(book)
    book.awaits(c.Slot.WATCH, c.Slot.CUE)


@pytest.mark.parametrize(
    "places",
    [
        (LOWER,),  # the first cluster of all is home, whatever its rank
        (PREFERRED, Place(1, "a")),  # the same cluster by another address
        (PREFERRED, Place(1, None)),  # Ray Client does not tell
        (Place(0, None), LOWER),
        (PREFERRED, Place(0, "b")),  # the preferred candidate leads elsewhere now
    ],
)
def test_place_that_is_no_other_cluster(places: tuple[Place, ...]) -> None:
    """Only what is known to be another cluster, through a lower candidate, is a reason."""
    assert [] == _reasons(_at(*places))


def test_other_cluster_stays_over_another_attachment_to_it() -> None:
    """Losing the session there and joining again does not make it home."""
    book = _at(PREFERRED, LOWER, LOWER)

    assert [OTHER] == _reasons(book)
    assert [OTHER] == _reasons(_settle(_attach(_lose(book.after(60.0)), LOWEST)))
    book.shows(State.DEGRADED, home="a")


@pytest.mark.parametrize("home", ["a", "b", "z"])
def test_other_cluster_goes_when_the_preferred_one_is_attached(home: str) -> None:
    """Back at rank 0, to whatever cluster is there: that is home."""
    book = _settle(_attach(_fail_back(_at(PREFERRED, LOWER).after(60.0)), Place(0, home)))

    assert [] == _reasons(book)
    book.shows(State.CONNECTED, home=home)
    expected = [] if home == "b" else [OTHER]
    assert expected == _reasons(_settle(_attach(_lose(book.after(60.0)), LOWER)))


def test_reload_that_prefers_the_attached_one_makes_it_home() -> None:
    """The session stays, the reason goes, and nothing is looked for any more."""
    book = _at(PREFERRED, LOWER) >> tell(e.ConfigReloaded, reconnect=False, rank=0)

    assert [] == _reasons(book)
    book.shows(State.CONNECTED, home="b", place=Place(0, "b")).awaits(c.Slot.WATCH)


def test_reload_that_prefers_others_watches_for_them() -> None:
    """What was home stays home; a move begins only when the others have been good."""
    book = _at(PREFERRED) >> tell(e.ConfigReloaded, reconnect=False, rank=1)
    book << order(c.WatchCues, kinds={Trigger.FAILBACK}, hold_s=60.0)

    assert [] == _reasons(book)
    book.shows(State.CONNECTED, home="a", place=Place(1, "a")).awaits(c.Slot.WATCH, c.Slot.CUE)
    book >> tell(e.ConfigReloaded, reconnect=False, rank=1)
    book.shows(State.CONNECTED, home="a", place=Place(1, "a")).awaits(c.Slot.WATCH, c.Slot.CUE)


# --- local_fallback ---------------------------------------------------------------------------


def test_local_fallback_is_a_reason_of_its_own_and_never_home() -> None:
    """It is named as such, at once, and what was home before stays home."""
    book = _attach(_lose(_at(PREFERRED).after(60.0)), LOCAL)
    assert [FALLBACK] == _reasons(book)
    assert [FALLBACK] == _reasons(_settle(book))
    book.shows(State.DEGRADED, home="a").awaits(c.Slot.WATCH, c.Slot.CUE)

    assert [] == _reasons(_settle(_attach(_fail_back(book.after(60.0)), PREFERRED)))
    book.shows(State.CONNECTED, home="a")


def test_local_fallback_before_all_else_leaves_home_open() -> None:
    """The first cluster from outside becomes home, through whichever candidate."""
    book = _at(LOCAL)
    book.shows(State.DEGRADED, home=None)
    _settle(_attach(_fail_back(book.after(60.0)), LOWER))

    assert [] == _reasons(book)
    book.shows(State.CONNECTED, home="b")


# --- failback and its hold --------------------------------------------------------------------


@pytest.mark.parametrize("places", [(LOWER,), (PREFERRED, LOWER)])
def test_failback_breaks_then_makes(places: tuple[Place, ...]) -> None:
    """From connected and from degraded alike; the move is counted."""
    _fail_back(_at(*places).after(60.0)).shows(State.DISCOVERING, failbacks=1)


HOLDS_S = (60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600, 3600, 3600)
SAME_HOLDS_S = (0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 3600)


def test_hold_doubles_with_each_move_that_does_not_last() -> None:
    """Home comes and goes: the holds before each move, pinned, for another cluster and our own."""
    book = _at(PREFERRED).after(60.0)
    for moves, (hold_s, same_hold_s) in enumerate(zip(HOLDS_S, SAME_HOLDS_S, strict=True)):
        _attach(_lose(book), LOWER, hold_s=hold_s, same_hold_s=same_hold_s)
        book.shows(State.DEGRADED, failbacks=moves)
        _attach(_fail_back(book.after(hold_s)), PREFERRED).after(60.0)

    book.shows(State.CONNECTED, failbacks=len(HOLDS_S))


def test_hold_has_no_overflow() -> None:
    """After thousands of moves it is still the longest."""
    book = Playbook(snapshot=Snapshot("run", failbacks=10_000)) >> tell(e.Started)
    _attach(book << order(c.RunAttempt), LOWER, hold_s=HOUR_S, same_hold_s=HOUR_S)


def test_hold_is_that_of_the_policy() -> None:
    """`failback.good_s` and `failback.max_s` are obeyed."""
    book = _at(LOWER, policy=Policy(failback=FailbackPolicy(good_s=5.0, max_s=12.0)))
    for hold_s in (10.0, 12.0, 12.0):
        _attach(_fail_back(book.after(60.0)), LOWER, hold_s=hold_s)


@pytest.mark.parametrize(
    ("place", "lasted_s", "expected"),
    [(PREFERRED, HOUR_S, 0), (PREFERRED, HOUR_S - 0.1, 1), (LOWER, 24 * HOUR_S, 1)],
)
def test_hold_starts_anew_after_an_hour_at_the_preferred_one(
    place: Place, lasted_s: float, expected: int
) -> None:
    """An hour attached at rank 0 and at no other; the boundary is pinned from both sides."""
    book = _attach(_fail_back(_at(PREFERRED, LOWER).after(60.0)), place)
    _lose(book.after(lasted_s)).shows(State.DISCOVERING, failbacks=expected)

    _attach(book, LOWER, hold_s=60.0 * 2**expected)


# --- out of reach, and since when -------------------------------------------------------------


def test_out_of_reach_begins_with_the_first_such_attempt() -> None:
    """From its start, not its end; further ones do not move it, and each is told."""
    book = _at(PREFERRED).at(100.0) >> tell(e.SessionExited, fault=EXITED) << order(c.EndSession)
    assert _run(book.at(101.0) >> tell(e.SessionEnded)) is None
    _fail(book, REFUSED, failure(ErrorType.DNS_TIMEOUT), seconds=2.0)
    book.shows(State.DISCONNECTED, unreachable_s=101.0)

    for _ in range(3):
        assert 101.0 == _retry(book)
        _fail(book, failure(ErrorType.HEALTH_TIMEOUT))
    book.shows(State.DISCONNECTED, unreachable_s=101.0)


def test_out_of_reach_outlives_a_cancelled_attempt() -> None:
    """An attempt that was not let finish says nothing."""
    book = _unreachable() >> tell(e.ReconnectRequested, address="c:3") << order(c.EndSession)

    assert 0.0 == _run(book >> tell(e.SessionEnded))


@pytest.mark.parametrize("waiting", [True, False])
def test_reload_that_aims_elsewhere_begins_it_anew(waiting: bool) -> None:
    """What was out of reach may be asked for no more: whether it waits or tries."""
    book = _unreachable()
    if waiting:
        _fail(book)
        book >> tell(e.ConfigReloaded, reconnect=True)
    else:
        book >> tell(e.ConfigReloaded, reconnect=True) << order(c.EndSession)
        book >> tell(e.SessionEnded)

    assert _run(book, trigger=Trigger.CONFIG_RELOAD) is None


def test_attempt_that_is_aimed_anew_before_it_begins_is_that_of_who_aimed_it() -> None:
    """A reload has planned it, a person names another address while the old session ends."""
    book = _at(PREFERRED).after(60.0) >> tell(e.ConfigReloaded, reconnect=True)
    book << order(c.EndSession)
    book >> tell(e.ReconnectRequested, address="c:3")

    _run(book >> tell(e.SessionEnded), trigger=Trigger.MANUAL, address="c:3")


def _unreachable() -> Playbook:
    """Let the second attempt be under way, out of reach since 0."""
    book = Playbook() >> tell(e.Started) << order(c.RunAttempt)
    _fail(book)
    assert 0.0 == _retry(book)
    return book


LEARNED = (
    ErrorType.TLS_FAILURE,
    ErrorType.AUTH_REJECTED,
    ErrorType.NO_LOCAL_NODE,
    ErrorType.INIT_FAILED,
)
"""Mended by a person, or by time beyond the health of the address."""


@pytest.mark.parametrize("decides", [True, False])
@pytest.mark.parametrize("type_", LEARNED)
def test_any_candidate_within_reach_ends_it(type_: ErrorType, *, decides: bool) -> None:
    """A fault of an operator, or beyond health, of whichever candidate; then it begins anew."""
    book, fault = _unreachable(), failure(type_)
    _fail(book, *((fault, REFUSED) if decides else (REFUSED, REFUSED, fault)))
    book.shows(State.DISCONNECTED, unreachable_s=None)
    assert _retry(book) is None

    began_s = book.now_s
    _fail(book, seconds=1.0)
    assert began_s == _retry(book)


@pytest.mark.parametrize(("place", "expected"), [(PREFERRED, None), (LOWER, None), (LOCAL, 0.0)])
def test_only_an_attachment_from_outside_ends_it(place: Place, expected: float | None) -> None:
    """A fallback leaves it, and the attempt that follows is told."""
    book = _attach(_unreachable(), place)
    shown = State.DEGRADED if place.fallback else State.CONNECTED
    book.shows(shown, unreachable_s=expected)

    book.after(60.0) >> tell(e.SessionExited, fault=EXITED) << order(c.EndSession)
    assert expected == _run(book >> tell(e.SessionEnded))


@pytest.mark.parametrize(
    ("after_s", "expected"),
    [
        (60.0, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 120.0, 180.0]),
        (5.0, [0.0, 1.0, 2.0, 4.0, 5.0, 13.0, 29.0, 61.0, 121.0, 181.0]),
        (None, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 124.0, 184.0]),
    ],
)
def test_fallback_is_due_in_time_and_once(after_s: float | None, expected: list[float]) -> None:
    """Begins of attempts that fail at once: one is brought forward, then the backoff rules."""
    book = Playbook(Policy(fallback_after_s=after_s)) >> tell(e.Started) << order(c.RunAttempt)
    begins = [0.0]
    while len(begins) < len(expected):
        begins.append(_fail(book))
        _retry(book)

    assert expected == begins


@pytest.mark.parametrize(
    ("faults", "seconds", "expected"),
    [
        ((REFUSED,), 0.0, 30.0),
        ((REFUSED,), 29.5, 30.5),
        ((REFUSED,), 40.0, 41.0),
        ((REJECTED,), 0.0, 60.0),
        ((REFUSED, REJECTED), 0.0, 60.0),
    ],
)
def test_fallback_keeps_the_gap_and_never_follows_an_operator_fault(
    faults: tuple[Fault, ...], seconds: float, expected: float
) -> None:
    """When the next attempt is due at a backoff of 60 s, with a fallback after 30 s."""
    book = Playbook(Policy(fallback_after_s=30.0), Snapshot("run", counted=9))
    book >> tell(e.Started) << order(c.RunAttempt)

    assert expected == _fail(book, *faults, seconds=seconds)


# --- cues -------------------------------------------------------------------------------------

RETURNED, CREDENTIALS = Trigger.CLUSTER_RETURNED, Trigger.CREDENTIALS_CHANGED
INIT_FAILED = failure(ErrorType.INIT_FAILED)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ((failure(ErrorType.NO_CLUSTER_FOUND),), set()),
        ((failure(ErrorType.DNS_FAILURE),), {RETURNED}),
        ((REFUSED,), {RETURNED}),
        ((failure(ErrorType.NOT_RAY),), {RETURNED}),
        ((failure(ErrorType.NO_LOCAL_NODE),), {RETURNED}),
        ((failure(ErrorType.AUTH_MISSING),), {CREDENTIALS}),
        ((REJECTED,), {CREDENTIALS}),
        ((failure(ErrorType.VERSION_MISMATCH),), set()),
        ((INIT_FAILED,), set()),
        ((INIT_FAILED, REFUSED), {RETURNED}),
        ((INIT_FAILED, REJECTED), {CREDENTIALS}),
        ((REFUSED, INIT_FAILED, REJECTED), {RETURNED, CREDENTIALS}),
    ],
)
def test_wait_looks_for_what_can_mend_any_candidate(
    faults: tuple[Fault, ...], expected: set[Trigger]
) -> None:
    """By class and phase of all faults; for new candidates always."""
    fault, *others = faults
    book = Playbook() >> tell(e.Started) << order(c.RunAttempt)
    book >> tell(e.AttemptFailed, fault=fault, others=tuple(others)) << order(c.WaitRetry)
    book << order(c.WatchCues, kinds={Trigger.DISCOVERY} | expected)

    book.shows(State.DISCONNECTED, error=fault).awaits(c.Slot.RETRY, c.Slot.CUE)


@pytest.mark.parametrize(
    ("place", "expected"), [(PREFERRED, {CREDENTIALS}), (LOWER, {CREDENTIALS, Trigger.FAILBACK})]
)
def test_rejected_attachment_looks_for_a_new_token(place: Place, expected: set[Trigger]) -> None:
    """While the grace runs; what is preferred is looked for as before."""
    book = _at(place) >> bad(Check.GCS, ErrorType.AUTH_REJECTED) << order(c.WaitGrace)
    book << order(c.WatchCues, kinds=expected)
    book >> tell(e.CueSeen, trigger=CREDENTIALS) << order(c.EndSession)
    book >> tell(e.SessionEnded) << order(c.RunAttempt, trigger=CREDENTIALS)

    book.shows(State.DISCOVERING, failbacks=0)
