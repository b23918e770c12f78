"""What operators ask for, in every state: DESIGN's sequences 1, 2, 3 and 8, as the core plays them.

What a request answers to its caller (409 `paused`, `joined`) is read from the snapshots of its
step, which is why these scenarios look at `desired`, `attempt` and `planned`.
"""

from collections.abc import Callable

import pytest

from castrayd.core.commands import (
    AttemptRef,
    EndSession,
    RunAttempt,
    Slot,
    WaitGrace,
    WaitRetry,
    WaitSettle,
    WatchCues,
    WatchSession,
)
from castrayd.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    ConfigReloaded,
    CueSeen,
    PauseRequested,
    ReconnectRequested,
    ResumeRequested,
    RetryDue,
    SessionEnded,
    SettleElapsed,
    Started,
    StopRequested,
)
from castrayd.core.health import Check
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType
from tests.unit.test_core_playbook import (
    Part,
    Playbook,
    attached,
    bad,
    failure,
    order,
    seen,
    tell,
)

REFUSED = failure(ErrorType.TCP_REFUSED)


def trying() -> Playbook:
    """Discovering: the first attempt runs."""
    return Playbook() >> tell(Started) << order(RunAttempt)


def waiting() -> Playbook:
    """Disconnected: the next attempt is due."""
    book = trying() >> tell(AttemptFailed, fault=REFUSED)
    return book << order(WaitRetry) << order(WatchCues)


def degraded() -> Playbook:
    """Degraded: the grace runs."""
    return attached() >> bad(Check.GCS, ErrorType.CONTROL_PLANE_LOST) << order(WaitGrace)


def replacing() -> Playbook:
    """Degraded: the session is being replaced."""
    return attached() >> bad(Check.RAYLET, ErrorType.LOCAL_NODE_LOST) << order(EndSession)


def superseding() -> Playbook:
    """Discovering: the attempt is being cancelled, another is planned."""
    return trying() >> tell(ReconnectRequested, address="b:2") << order(EndSession)


def renewing() -> Playbook:
    """Disconnected: the session is being ended, an attempt is planned."""
    return attached() >> tell(ReconnectRequested) << order(EndSession)


def pausing() -> Playbook:
    """Disconnected: the session is being ended, nothing is to follow."""
    return attached() >> tell(PauseRequested) << order(EndSession)


def paused() -> Playbook:
    """Disconnected: at rest."""
    return pausing() >> tell(SessionEnded)


EVERYWHERE = (
    trying,
    waiting,
    attached,
    degraded,
    replacing,
    superseding,
    renewing,
    pausing,
    paused,
)
ENDING = (replacing, superseding, renewing, pausing)


# --- sequence 1: reconnect --------------------------------------------------------------------


@pytest.mark.parametrize("book", [paused, pausing])
def test_reconnect_while_paused_changes_nothing(book: Callable[[], Playbook]) -> None:
    """Whoever pauses is obeyed until somebody resumes."""
    paused = book()
    before = paused.snapshot
    paused >> tell(ReconnectRequested, address="b:2")

    assert before == paused.snapshot


def test_reconnect_while_trying_joins_the_attempt() -> None:
    """The attempt under way is what was asked for."""
    book = trying()
    before = book.snapshot
    book >> tell(ReconnectRequested)

    assert before == book.snapshot


def test_reconnect_to_the_address_under_way_joins_the_attempt() -> None:
    """Asking twice for one address does not begin twice."""
    book = waiting() >> tell(ReconnectRequested, address="b:2") << order(RunAttempt, address="b:2")
    before = book.snapshot
    book >> tell(ReconnectRequested, address="b:2")

    assert before == book.snapshot


def test_reconnect_elsewhere_while_trying_cancels_the_attempt_and_tries_once() -> None:
    """Another address takes the attempt's place, for one attempt alone."""
    book = superseding().shows(State.DISCOVERING).awaits(Slot.END)
    assert AttemptRef("run-2", 2, Trigger.MANUAL, "b:2") == book.snapshot.planned

    book >> tell(AttemptSucceeded, epoch=1)  # on its way when it was called off
    book.shows(State.DISCOVERING, attached_s=None)
    book >> tell(SessionEnded) << order(RunAttempt, id="run-2", trigger=Trigger.MANUAL)
    book >> tell(AttemptFailed, fault=REFUSED) << order(WaitRetry) << order(WatchCues)
    book >> tell(RetryDue) << order(RunAttempt, id="run-3", address=None)
    book.shows(State.DISCOVERING, planned=None)


def test_late_answer_of_the_attempt_before_is_dropped() -> None:
    """Each attempt has an epoch of its own: the old one's success does not attach the new one."""
    book = superseding() >> tell(SessionEnded) << order(RunAttempt)
    book >> tell(AttemptSucceeded, epoch=1) >> tell(AttemptFailed, epoch=1, fault=REFUSED)

    book.shows(State.DISCOVERING, error=None).awaits(Slot.ATTEMPT)


def test_reconnect_again_while_superseding_aims_the_planned_attempt() -> None:
    """The last address asked for wins, and one attempt serves everybody who asked."""
    book = superseding() >> tell(ReconnectRequested, address="c:3") >> tell(ReconnectRequested)
    book >> tell(SessionEnded) << order(RunAttempt, id="run-2", address="c:3")

    book.shows(State.DISCOVERING, serial=2)


def test_success_clears_the_error() -> None:
    """The fault of the attempts before is shown until one succeeds, and no longer."""
    book = waiting().after(1.0) >> tell(RetryDue) << order(RunAttempt)
    book.shows(State.DISCOVERING, error=REFUSED)
    book >> tell(AttemptSucceeded) << order(WatchSession) << order(WaitSettle)

    book.shows(State.CONNECTED, error=None)


def test_reconnect_while_waiting_begins_at_once() -> None:
    """Neither the backoff nor the probe for the cluster's return goes on beside the attempt."""
    book = waiting() >> tell(ReconnectRequested)
    book << order(RunAttempt, number=2, trigger=Trigger.MANUAL)

    book.shows(State.DISCOVERING, retry_at_s=None).awaits(Slot.ATTEMPT)


@pytest.mark.parametrize("book", [attached, degraded])
def test_reconnect_while_attached_breaks_then_makes(book: Callable[[], Playbook]) -> None:
    """The new attempt begins when nothing of the old session is left."""
    renewed = book() >> tell(ReconnectRequested, address="b:2") << order(EndSession)
    renewed.shows(State.DISCONNECTED, attempt=None, attached_s=None, reasons=(), retry_at_s=None)
    renewed.awaits(Slot.END)
    renewed >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.MANUAL, address="b:2")

    renewed.shows(State.DISCOVERING).awaits(Slot.ATTEMPT)


def test_reconnect_while_replacing_names_the_attempt_that_follows() -> None:
    """The end under way serves; what follows it is the operator's attempt."""
    book = replacing() >> tell(ReconnectRequested)
    assert book.snapshot.planned is not None
    book >> tell(SessionEnded) << order(RunAttempt, number=2, trigger=Trigger.MANUAL)

    book.shows(State.DISCOVERING)


def test_reconnect_while_replacing_a_stable_session_forgets_it_wholly() -> None:
    """The count begins anew, and service reasons of the next session wait for its own settling."""
    book = attached().at(40.0) >> tell(SettleElapsed)
    book >> bad(Check.RAYLET, ErrorType.LOCAL_NODE_LOST) << order(EndSession)
    book >> tell(ReconnectRequested) >> tell(SessionEnded) << order(RunAttempt, number=1)
    book.shows(State.DISCOVERING, attached_s=None, settled=False, reasons=())
    book >> tell(AttemptSucceeded) << order(WatchSession) << order(WaitSettle, until_s=50.0)
    book >> bad(Check.NODES, ErrorType.NODES_BELOW_MINIMUM)

    book.shows(State.CONNECTED)


# --- sequence 2: pause and resume -------------------------------------------------------------


@pytest.mark.parametrize("book", [trying, attached, degraded])
def test_pause_ends_what_there_is(book: Callable[[], Playbook]) -> None:
    """The attempt or session is ended, and then nothing is under way."""
    ended = book() >> tell(PauseRequested) << order(EndSession)
    ended.shows(State.DISCONNECTED, desired=Desired.PAUSED, retry_at_s=None).awaits(Slot.END)
    ended >> tell(SessionEnded)

    ended.shows(State.DISCONNECTED, desired=Desired.PAUSED, retry_at_s=None).awaits()


def test_pause_while_waiting_calls_the_retry_off() -> None:
    """There is nothing to end; neither the retry nor the cluster's return begins an attempt."""
    book = waiting() >> tell(PauseRequested)
    book.shows(State.DISCONNECTED, desired=Desired.PAUSED, retry_at_s=None).awaits()
    book >> tell(RetryDue) >> tell(CueSeen, trigger=Trigger.CLUSTER_RETURNED)

    book.shows(State.DISCONNECTED, serial=1)


@pytest.mark.parametrize("book", ENDING)
def test_pause_while_ending_waits_for_the_same_end(book: Callable[[], Playbook]) -> None:
    """One end is enough, and what was planned behind it is dropped."""
    ended = book() >> tell(PauseRequested)
    ended.shows(State.DISCONNECTED, desired=Desired.PAUSED, planned=None).awaits(Slot.END)
    ended >> tell(SessionEnded)

    ended.shows(State.DISCONNECTED).awaits()


def test_late_success_of_a_paused_attempt_is_dropped() -> None:
    """Pausing wins over an attempt that succeeded in the same moment."""
    book = trying() >> tell(PauseRequested) << order(EndSession) >> tell(AttemptSucceeded)

    book.shows(State.DISCONNECTED, attached_s=None).awaits(Slot.END)


def test_resume_begins_at_once() -> None:
    """Resuming does not wait for a backoff of before."""
    book = paused() >> tell(ResumeRequested) << order(RunAttempt, trigger=Trigger.RESUME)

    book.shows(State.DISCOVERING, desired=Desired.UP)


def test_resume_while_pausing_begins_after_the_end() -> None:
    """Pause and resume in a breath still means a new session, and never two."""
    book = pausing() >> tell(ResumeRequested)
    book.shows(State.DISCONNECTED, desired=Desired.UP).awaits(Slot.END)
    book >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.RESUME)

    book.shows(State.DISCOVERING)


@pytest.mark.parametrize("book", [trying, waiting, attached, degraded, replacing, superseding])
def test_resume_while_up_changes_nothing(book: Callable[[], Playbook]) -> None:
    """A second resume is no reconnect."""
    up = book()
    before = up.snapshot
    up >> tell(ResumeRequested)

    assert before == up.snapshot


def test_daemon_started_paused_rests_until_resumed() -> None:
    """The operator's wish holds over a restart."""
    book = Playbook(snapshot=Snapshot("run", desired=Desired.PAUSED)) >> tell(Started)
    book.shows(State.DISCONNECTED).awaits()
    book >> tell(ResumeRequested) << order(RunAttempt, number=1, trigger=Trigger.RESUME)

    book.shows(State.DISCOVERING)


# --- sequence 3: reload -----------------------------------------------------------------------


@pytest.mark.parametrize("book", EVERYWHERE)
def test_reload_that_fits_changes_nothing(book: Callable[[], Playbook]) -> None:
    """Settings under which the session serves do not touch it."""
    fitting = book()
    before = fitting.snapshot
    fitting >> tell(ConfigReloaded, reconnect=False)

    assert before == fitting.snapshot


@pytest.mark.parametrize("book", [trying, attached, degraded])
def test_reload_that_does_not_fit_ends_then_begins(book: Callable[[], Playbook]) -> None:
    """New settings mean a new session, made after the old one is gone."""
    renewed = book() >> tell(ConfigReloaded, reconnect=True) << order(EndSession)
    renewed.awaits(Slot.END)
    renewed >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.CONFIG_RELOAD, address=None)

    renewed.shows(State.DISCOVERING).awaits(Slot.ATTEMPT)


def test_reload_while_waiting_begins_at_once() -> None:
    """Whoever mends an address does not wait for the backoff of the wrong one."""
    book = waiting() >> tell(ConfigReloaded, reconnect=True)
    book << order(RunAttempt, trigger=Trigger.CONFIG_RELOAD)

    book.shows(State.DISCOVERING).awaits(Slot.ATTEMPT)


@pytest.mark.parametrize("book", [replacing, superseding, renewing])
def test_reload_while_ending_begins_once(book: Callable[[], Playbook]) -> None:
    """The attempt that follows the end uses the new settings; it needs no second one."""
    ending = book() >> tell(ConfigReloaded, reconnect=True)
    ending.awaits(Slot.END)
    ending >> tell(SessionEnded) << order(RunAttempt)

    ending.shows(State.DISCOVERING, serial=2)


@pytest.mark.parametrize("book", [paused, pausing])
def test_reload_while_paused_changes_nothing(book: Callable[[], Playbook]) -> None:
    """New settings are no resume."""
    resting = book()
    before = resting.snapshot
    resting >> tell(ConfigReloaded, reconnect=True)

    assert before == resting.snapshot


# --- sequence 8: stop -------------------------------------------------------------------------


@pytest.mark.parametrize("book", [Playbook, trying, waiting, attached, degraded, paused])
def test_stop_ends_and_is_done(book: Callable[[], Playbook]) -> None:
    """The end is ordered in every state, its answer means that nothing is left."""
    stopped = book() >> tell(StopRequested) << order(EndSession)
    stopped.shows(State.DISCONNECTED, stopping=True).awaits(Slot.END)
    stopped >> tell(StopRequested) >> tell(SessionEnded)

    stopped.shows(State.DISCONNECTED, planned=None, retry_at_s=None).awaits()


@pytest.mark.parametrize("book", ENDING)
def test_stop_while_ending_waits_for_the_same_end(book: Callable[[], Playbook]) -> None:
    """What was planned behind the end is dropped."""
    stopped = book() >> tell(StopRequested)
    stopped.shows(State.DISCONNECTED, stopping=True, planned=None).awaits(Slot.END)
    stopped >> tell(SessionEnded)

    stopped.shows(State.DISCONNECTED).awaits()


@pytest.mark.parametrize(
    "request_",
    [
        tell(ReconnectRequested, address="b:2"),
        tell(ResumeRequested),
        tell(PauseRequested),
        tell(ConfigReloaded, reconnect=True),
    ],
)
def test_request_after_stop_begins_nothing(request_: Part) -> None:
    """Once the daemon ends, nothing is begun any more, before the end's answer or after it."""
    book = attached() >> tell(StopRequested) << order(EndSession)
    book >> request_ >> tell(SessionEnded) >> request_

    book.shows(State.DISCONNECTED, planned=None).awaits()


def test_reconnect_while_degraded_keeps_the_reason_as_last_error() -> None:
    """Until the new session is up, status still says what was wrong."""
    book = degraded() >> tell(ReconnectRequested) << order(EndSession)

    book.shows(State.DISCONNECTED, error=seen(ErrorType.CONTROL_PLANE_LOST), reasons=())
