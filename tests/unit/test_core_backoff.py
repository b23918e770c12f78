"""When the next attempt begins: the numbers alone, and as the machine obeys them."""

import pytest

from castrayd.core.backoff import ceiling_s, retry_at_s
from castrayd.core.commands import (
    EndSession,
    RunAttempt,
    WaitRetry,
    WaitSettle,
    WatchCues,
    WatchSession,
)
from castrayd.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CueSeen,
    RetryDue,
    SessionEnded,
    SessionExited,
    Started,
)
from castrayd.core.policy import BackoffPolicy
from castrayd.core.states import State, Trigger
from castrayd.errors import ErrorType, Retry
from tests.unit.test_core_playbook import Playbook, attached, failure, order, seen, tell

POLICY = BackoffPolicy()
REFUSED = failure(ErrorType.TCP_REFUSED)
REJECTED = failure(ErrorType.AUTH_REJECTED)
EXITED = seen(ErrorType.SESSION_EXITED)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [(1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (9, 60), (10_000, 60)],
)
def test_ceiling_is_none_at_first_then_doubles_to_sixty(failures: int, expected: float) -> None:
    """The schedule that is promised: at once, then from 1 s, without end and without overflow."""
    assert expected == ceiling_s(failures, Retry.TRANSIENT, POLICY)


@pytest.mark.parametrize("failures", [1, 2, 10_000])
def test_ceiling_of_an_operator_fault_is_the_cap(failures: int) -> None:
    """What a person must mend is not asked for again and again."""
    assert POLICY.max_s == ceiling_s(failures, Retry.OPERATOR, POLICY)


def test_ceiling_obeys_the_policy() -> None:
    """Settings move the start and the cap; a start above the cap is cut."""
    policy = BackoffPolicy(initial_s=0.25, max_s=3.0)

    assert [0.25, 0.5, 1.0, 2.0, 3.0] == [
        ceiling_s(n, Retry.TRANSIENT, policy) for n in range(2, 7)
    ]
    assert 3.0 == ceiling_s(2, Retry.TRANSIENT, BackoffPolicy(initial_s=5.0, max_s=3.0))


@pytest.mark.parametrize(
    ("ended_s", "failures", "jitter", "expected"),
    [
        (100.0, 1, 1.0, 101.0),  # the first comes at once: after the gap
        (100.2, 4, 1.0, 104.0),  # from the start, not from the end
        (102.0, 4, 0.5, 103.0),  # the wait is over, the gap is not
        (150.0, 4, 1.0, 151.0),  # a slow failure waits for the gap alone
        (100.0, 8, 0.5, 130.0),  # half of the cap
    ],
)
def test_retry_is_measured_from_the_start_and_keeps_the_gap(
    ended_s: float, failures: int, jitter: float, expected: float
) -> None:
    """Times of an attempt that began at 100 s."""
    found = retry_at_s(
        began_s=100.0,
        ended_s=ended_s,
        failures=failures,
        retry=Retry.TRANSIENT,
        jitter=jitter,
        policy=POLICY,
    )

    assert expected == found


# --- the machine ------------------------------------------------------------------------------


def _fail(book: Playbook, seconds: float = 0.0, jitter: float = 1.0) -> Playbook:
    """Let the attempt fail after a while; the wait is left to be named."""
    return book.after(seconds) >> tell(AttemptFailed, fault=REFUSED, jitter=jitter)


def _exit(book: Playbook, at_s: float, jitter: float = 1.0) -> Playbook:
    """Let the session exit, and its end be answered; what follows is left to be named."""
    book.at(at_s) >> tell(SessionExited, fault=EXITED) << order(EndSession)
    return book >> tell(SessionEnded, jitter=jitter)


def _attach(book: Playbook) -> Playbook:
    return book >> tell(AttemptSucceeded) << order(WatchSession) << order(WaitSettle)


def test_failures_at_once_follow_the_schedule() -> None:
    """Begins of attempts that fail at once, with the longest jitter, pinned in seconds."""
    book = Playbook() >> tell(Started)
    begins = []
    for number in range(1, 11):
        book << order(RunAttempt, number=number)
        begins.append(book.now_s)
        _fail(book) << order(WaitRetry) << order(WatchCues)
        book.at(book.snapshot.retry_at_s or 0.0) >> tell(RetryDue)

    assert [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 124.0, 184.0] == begins


def test_retry_due_begins_with_the_trigger_backoff() -> None:
    """The end of the wait begins the next attempt; the probe for the return is called off."""
    book = _fail(Playbook() >> tell(Started) << order(RunAttempt))
    book << order(WaitRetry, until_s=1.0) << order(WatchCues)
    book.at(1.0) >> tell(RetryDue) << order(RunAttempt, number=2, trigger=Trigger.BACKOFF)
    book >> tell(CueSeen, trigger=Trigger.CLUSTER_RETURNED)

    book.shows(State.DISCOVERING, serial=2, retry_at_s=None)


def test_return_of_the_cluster_begins_before_the_retry() -> None:
    """Whichever comes first begins the attempt, the other is called off."""
    book = _fail(Playbook() >> tell(Started) << order(RunAttempt))
    book << order(WaitRetry) << order(WatchCues) >> tell(CueSeen, trigger=Trigger.CLUSTER_RETURNED)
    book << order(RunAttempt, number=2, trigger=Trigger.CLUSTER_RETURNED) >> tell(RetryDue)

    book.shows(State.DISCOVERING, serial=2, retry_at_s=None)


def test_operator_fault_waits_for_the_cap() -> None:
    """The first failure already, and a transient one after it is back in the schedule."""
    book = Playbook() >> tell(Started) << order(RunAttempt)
    book >> tell(AttemptFailed, fault=REJECTED, jitter=1.0) << order(WaitRetry, until_s=60.0)
    book << order(WatchCues)
    book.at(60.0) >> tell(RetryDue) << order(RunAttempt, number=2)
    _fail(book) << order(WaitRetry, until_s=61.0) << order(WatchCues)

    book.shows(State.DISCONNECTED, retry_at_s=61.0, error=REFUSED)


def test_slow_failure_is_not_waited_for_twice() -> None:
    """After 50 s of trying the next attempt comes a gap later."""
    book = _fail(Playbook() >> tell(Started) << order(RunAttempt), seconds=50.0)
    book << order(WaitRetry, until_s=51.0) << order(WatchCues)

    book.shows(State.DISCONNECTED, retry_at_s=51.0)


def test_wait_is_shortened_by_the_jitter_and_measured_from_the_start() -> None:
    """The fourth failure, after 1.5 s of trying: three quarters of 4 s after its start."""
    book = Playbook() >> tell(Started) << order(RunAttempt)
    for _ in range(3):
        _fail_and_retry(book)
    _fail(book, seconds=1.5, jitter=0.75) << order(WaitRetry, until_s=3.0) << order(WatchCues)

    book.shows(State.DISCONNECTED, retry_at_s=3.0)


def test_loss_of_a_stable_connection_retries_at_once_from_one() -> None:
    """Thirty seconds connected reset the count, and the first retry does not wait."""
    book = _fail(_fail_and_retry(Playbook() >> tell(Started) << order(RunAttempt)))
    book << order(WaitRetry) << order(WatchCues)
    book >> tell(RetryDue) << order(RunAttempt, number=3)
    began_s = _attach(book).now_s
    _exit(book, began_s + 30.0) << order(RunAttempt, number=1, trigger=Trigger.SESSION_LOST)
    _fail(book) << order(WaitRetry, until_s=began_s + 31.0) << order(WatchCues)

    book.shows(State.DISCONNECTED, counted=1)


def _fail_and_retry(book: Playbook) -> Playbook:
    _fail(book) << order(WaitRetry) << order(WatchCues)
    return book >> tell(RetryDue) << order(RunAttempt)


def test_loss_just_short_of_stable_keeps_the_count() -> None:
    """The boundary is pinned from the other side."""
    book = _exit(attached(), 29.9) << order(RunAttempt, number=2)

    book.shows(State.DISCOVERING, counted=2)


def test_flapping_connection_keeps_backing_off() -> None:
    """Sessions that live for two seconds each: begins spread like those of failures."""
    book = Playbook() >> tell(Started)
    begins = []
    for number in range(1, 8):
        book << order(RunAttempt, number=number)
        begins.append(book.now_s)
        _exit(_attach(book), book.now_s + 2.0)
        if book.snapshot.retry_at_s is not None:
            book << order(WaitRetry, until_s=book.snapshot.retry_at_s) << order(WatchCues)
            book.at(book.snapshot.retry_at_s) >> tell(RetryDue)

    assert [0.0, 2.0, 4.0, 6.0, 10.0, 18.0, 34.0] == begins


def test_flapping_wait_is_shown() -> None:
    """While such a wait lasts, status can say when it ends; the jitter shortens it."""
    book = _exit(attached(), 0.25) << order(RunAttempt, number=2)
    _exit(_attach(book), 0.5, jitter=0.5) << order(WaitRetry, until_s=0.75)
    book << order(WatchCues, kinds={Trigger.CLUSTER_RETURNED, Trigger.DISCOVERY})

    book.shows(State.DISCONNECTED, retry_at_s=0.75, error=EXITED)
