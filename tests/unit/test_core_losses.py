"""How an attachment degrades, recovers, is replaced or given up; DESIGN's sequences 4, 5 and 6.

Of 4 and 6 only that part is here which the core decides: another cluster at the same address, and
service reasons, which degrade and never cost the session.
"""

import pytest

from castrayd.core.commands import (
    EndSession,
    RunAttempt,
    Slot,
    VerifyIdentity,
    WaitGrace,
    WaitRetry,
    WatchCues,
)
from castrayd.core.effects import abandon
from castrayd.core.events import (
    AttemptFailed,
    GraceElapsed,
    IdentityVerified,
    PauseRequested,
    SessionEnded,
    SessionExited,
    SettleElapsed,
    Started,
)
from castrayd.core.health import ATTACHMENT_REASONS, FINAL_REASONS, Check
from castrayd.core.policy import Checks, Policy
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType, Phase
from tests.unit.test_core_playbook import (
    Playbook,
    attached,
    bad,
    failure,
    good,
    order,
    seen,
    settled,
    tell,
)

LOST = ErrorType.CONTROL_PLANE_LOST
SILENT = ErrorType.SESSION_UNRESPONSIVE
FEW = ErrorType.NODES_BELOW_MINIMUM
GONE = ErrorType.LOCAL_NODE_LOST
REPLACED = ErrorType.CLUSTER_REPLACED
SERVICE = (FEW, ErrorType.CASTERS_MISSING, ErrorType.OTHER_CLUSTER, ErrorType.LOCAL_FALLBACK)


# --- the grace --------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", sorted(ATTACHMENT_REASONS))
def test_attachment_reason_starts_the_grace(type_: ErrorType) -> None:
    """The reason shows at once, settled or not, and the session has the grace to come back."""
    book = attached().at(5.0) >> bad(Check.GCS, type_) << order(WaitGrace, until_s=25.0)
    if type_ is ErrorType.AUTH_REJECTED:
        book << order(WatchCues, kinds={Trigger.CREDENTIALS_CHANGED})

    book.shows(State.DEGRADED, reasons=(seen(type_),), error=seen(type_), since_s=5.0)


def test_grace_is_that_of_the_policy() -> None:
    """`checks.grace_s` is obeyed."""
    book = attached(Policy(checks=Checks(grace_s=3.0)))
    book >> bad(Check.GCS, LOST) << order(WaitGrace, until_s=3.0)

    book.shows(State.DEGRADED)


def test_grace_that_ends_gives_the_session_up() -> None:
    """What did not come back in time is ended and replaced, with the root cause as the error."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace)
    book.at(20.0) >> tell(GraceElapsed) << order(EndSession)
    book.shows(State.DISCONNECTED, error=seen(LOST), reasons=(), attached_s=None).awaits(Slot.END)
    book >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.SESSION_LOST)

    book.shows(State.DISCOVERING, error=seen(LOST))


def test_second_reason_does_not_prolong_the_grace() -> None:
    """The grace counts from the first reason on."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace, until_s=20.0)
    book.after(7.0) >> bad(Check.RAYLET, SILENT)

    book.shows(State.DEGRADED, reasons=(seen(LOST), seen(SILENT))).awaits(
        Slot.WATCH, Slot.SETTLE, Slot.GRACE
    )


def test_dependant_reason_keeps_the_grace() -> None:
    """With the GCS back and the heartbeat still missing, the same grace runs on."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace) >> bad(Check.HEARTBEAT, SILENT)
    book >> good(Check.GCS)
    book.shows(State.DEGRADED, reasons=(seen(SILENT),)).awaits(Slot.WATCH, Slot.SETTLE, Slot.GRACE)
    book >> good(Check.HEARTBEAT) << order(VerifyIdentity)

    book.shows(State.DEGRADED)


# --- verification -----------------------------------------------------------------------------


def test_recovery_is_verified_before_it_is_shown() -> None:
    """Good checks do not suffice: the cluster is asked who it is, and the same session goes on."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace)
    book.after(4.0) >> good(Check.GCS) << order(VerifyIdentity)
    book.shows(State.DEGRADED, reasons=(seen(LOST),))
    book.awaits(Slot.WATCH, Slot.SETTLE, Slot.GRACE, Slot.VERIFY)
    book.after(1.0) >> tell(IdentityVerified, fault=None)

    book.shows(State.CONNECTED, reasons=(), error=None, attached_s=0.0, since_s=5.0)
    book.awaits(Slot.WATCH, Slot.SETTLE)
    book.after(15.0) >> tell(GraceElapsed)
    book.shows(State.CONNECTED)


def test_recovery_of_another_cluster_replaces_the_session() -> None:
    """A GCS restarted without its memory looks well; the session must not be shown connected."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace) >> good(Check.GCS)
    book << order(VerifyIdentity)
    book >> tell(IdentityVerified, fault=seen(REPLACED)) << order(EndSession)
    book.shows(State.DEGRADED, reasons=(seen(REPLACED),), error=seen(REPLACED)).awaits(Slot.END)
    book >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.SESSION_LOST)

    book.shows(State.DISCOVERING)


def test_loss_during_verification_calls_it_off() -> None:
    """An answer to a question of before the second loss proves nothing; the grace runs on."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace, until_s=20.0)
    book >> good(Check.GCS) << order(VerifyIdentity) >> bad(Check.GCS, LOST)
    book.shows(State.DEGRADED).awaits(Slot.WATCH, Slot.SETTLE, Slot.GRACE)
    book >> tell(IdentityVerified, fault=None)
    book.shows(State.DEGRADED, reasons=(seen(LOST),))
    book >> good(Check.GCS) << order(VerifyIdentity) >> tell(IdentityVerified, fault=None)

    book.shows(State.CONNECTED)


def test_verification_is_asked_once() -> None:
    """Reports that come while the question is under way do not repeat it."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace)
    book >> good(Check.GCS) << order(VerifyIdentity) >> bad(Check.NODES, FEW) >> good(Check.NODES)

    book.shows(State.DEGRADED).awaits(Slot.WATCH, Slot.SETTLE, Slot.GRACE, Slot.VERIFY)


def test_grace_ends_during_verification_gives_the_session_up() -> None:
    """A cluster that never tells who it is has not come back."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace) >> good(Check.GCS)
    book << order(VerifyIdentity) >> tell(GraceElapsed) << order(EndSession)

    book.shows(State.DISCONNECTED, error=seen(LOST)).awaits(Slot.END)


def test_recovery_starts_a_new_grace_at_the_next_loss() -> None:
    """Each loss that was mended and verified leaves nothing behind."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace, until_s=20.0)
    book >> good(Check.GCS) << order(VerifyIdentity) >> tell(IdentityVerified, fault=None)
    book.at(15.0) >> bad(Check.GCS, LOST) << order(WaitGrace, until_s=35.0)

    book.shows(State.DEGRADED)


# --- what a driver never recovers from --------------------------------------------------------


@pytest.mark.parametrize("type_", sorted(FINAL_REASONS))
def test_final_reason_is_shown_and_replaced_at_once(type_: ErrorType) -> None:
    """No grace: the reason stays shown while the session is ended, then an attempt begins."""
    book = attached() >> bad(Check.RAYLET, type_) << order(EndSession)
    book.shows(State.DEGRADED, reasons=(seen(type_),), error=seen(type_)).awaits(Slot.END)
    book.after(1.0) >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.SESSION_LOST)

    book.shows(State.DISCOVERING, error=seen(type_), reasons=())


def test_final_reason_ends_the_grace() -> None:
    """Sequence 6: the control plane comes back as another cluster; waiting has no sense."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace)
    book >> bad(Check.IDENTITY, REPLACED) << order(EndSession)

    book.shows(State.DEGRADED, reasons=(seen(REPLACED),)).awaits(Slot.END)


def test_final_reason_behind_another_counts() -> None:
    """The raylet is gone and the GCS too: the root is named first, and there is no grace."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace)
    book >> bad(Check.RAYLET, GONE) << order(EndSession)

    book.shows(State.DEGRADED, reasons=(seen(LOST), seen(GONE)), error=seen(LOST))


def test_reports_while_replacing_change_nothing() -> None:
    """A raylet that seems to return does not stop the replacement of its session."""
    book = attached() >> bad(Check.RAYLET, GONE) << order(EndSession)
    before = book.snapshot
    book >> good(Check.RAYLET) >> bad(Check.GCS, LOST) >> tell(SettleElapsed)

    assert before == book.snapshot


# --- the session ends by itself ---------------------------------------------------------------


@pytest.mark.parametrize("degraded", [False, True])
def test_session_exit_is_ended_then_replaced(*, degraded: bool) -> None:
    """The process is gone; its end is ordered all the same, for what it may have left."""
    book = attached()
    if degraded:
        book >> bad(Check.GCS, LOST) << order(WaitGrace)
    book >> tell(SessionExited, fault=seen(ErrorType.SESSION_EXITED)) << order(EndSession)
    book.shows(
        State.DISCONNECTED, error=seen(ErrorType.SESSION_EXITED), reasons=(), attached_s=None
    )
    book.awaits(Slot.END).after(1.0)
    book >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.SESSION_LOST)

    book.shows(State.DISCOVERING)


def test_exit_during_init_fails_the_attempt() -> None:
    """Sequence 5: the attempt's error is the exit; the cluster's return is not watched for."""
    fault = failure(ErrorType.SESSION_EXITED, Phase.INIT)
    book = Playbook() >> tell(Started) << order(RunAttempt)
    book >> tell(AttemptFailed, fault=fault) << order(WaitRetry)
    book << order(WatchCues, kinds={Trigger.DISCOVERY})

    book.shows(State.DISCONNECTED, error=fault, attempt=None).awaits(Slot.RETRY, Slot.CUE)


@pytest.mark.parametrize("phase", Phase)
def test_return_is_watched_for_where_it_can_be_seen(phase: Phase) -> None:
    """A probe without token or session can see these phases mended, and no others."""
    visible = phase in {Phase.RESOLVE, Phase.TCP, Phase.HEALTH, Phase.LOCAL_NODE}
    book = Playbook() >> tell(Started) << order(RunAttempt)
    book >> tell(AttemptFailed, fault=failure(ErrorType.INTERNAL, phase)) << order(WaitRetry)
    assert visible == (Trigger.CLUSTER_RETURNED in book.unread[0].kinds)  # type: ignore[union-attr]
    book << order(WatchCues)

    book.shows(State.DISCONNECTED)


@pytest.mark.parametrize("type_", [ErrorType.AUTH_REJECTED, ErrorType.NOT_RAY])
def test_operator_fault_of_a_later_check_has_the_grace(type_: ErrorType) -> None:
    """Sequence 5: these can appear on a running attachment, and pass when they are mended."""
    book = attached() >> bad(Check.IDENTITY, type_) << order(WaitGrace)
    if type_ is ErrorType.AUTH_REJECTED:
        book << order(WatchCues)
    book >> good(Check.IDENTITY) << order(VerifyIdentity) >> tell(IdentityVerified, fault=None)

    book.shows(State.CONNECTED)


# --- service reasons --------------------------------------------------------------------------


@pytest.mark.parametrize("type_", SERVICE)
def test_service_reason_degrades_and_costs_nothing(type_: ErrorType) -> None:
    """It is shown while it lasts; no grace, no verification, the same session."""
    book = settled() >> bad(Check.NODES, type_)
    book.shows(State.DEGRADED, reasons=(seen(type_),), error=seen(type_)).awaits(Slot.WATCH)
    book >> good(Check.NODES)

    book.shows(State.CONNECTED, reasons=(), error=None).awaits(Slot.WATCH)


def test_service_reason_counts_when_the_attachment_has_settled() -> None:
    """Nodes of a young cluster may still be on their way."""
    book = attached() >> bad(Check.NODES, FEW)
    book.shows(State.CONNECTED, reasons=())
    book.at(10.0) >> tell(SettleElapsed)

    book.shows(State.DEGRADED, reasons=(seen(FEW),), since_s=10.0)


def test_service_reason_that_passes_before_settling_is_never_shown() -> None:
    """Settling without a reason is no change."""
    book = attached() >> bad(Check.NODES, FEW) >> good(Check.NODES) >> tell(SettleElapsed)

    book.shows(State.CONNECTED, settled=True, since_s=0.0).awaits(Slot.WATCH)


def test_service_reason_stays_after_the_attachment_recovered() -> None:
    """Behind the root cause it was hidden; now it is what is left."""
    book = settled() >> bad(Check.GCS, LOST) << order(WaitGrace) >> bad(Check.NODES, FEW)
    book.shows(State.DEGRADED, reasons=(seen(LOST),))
    book >> good(Check.GCS) << order(VerifyIdentity) >> tell(IdentityVerified, fault=None)

    book.shows(State.DEGRADED, reasons=(seen(FEW),)).awaits(Slot.WATCH)


def test_settling_during_the_grace_is_no_recovery() -> None:
    """The wait for service reasons has no word in what the attachment is."""
    book = attached() >> bad(Check.GCS, LOST) << order(WaitGrace) >> tell(SettleElapsed)

    book.shows(State.DEGRADED, reasons=(seen(LOST),)).awaits(Slot.WATCH, Slot.GRACE)


# --- after a bug ------------------------------------------------------------------------------


def _abandoned(book: Playbook) -> Playbook:
    book.snapshot, commands = abandon(
        book.snapshot, book.now_s, seen(ErrorType.INTERNAL), book.policy
    )
    book.unread = list(commands)
    book.epochs |= {command.SLOT: command.epoch for command in commands}
    return book


def test_abandon_ends_everything_then_goes_on() -> None:
    """A bug costs the session, not the daemon: the error is shown, then an attempt begins."""
    book = _abandoned(attached().at(40.0)) << order(EndSession)
    book.shows(State.DISCONNECTED, error=seen(ErrorType.INTERNAL), since_s=40.0, attached_s=None)
    book.awaits(Slot.END) >> tell(SessionEnded) << order(RunAttempt, trigger=Trigger.SESSION_LOST)

    book.shows(State.DISCOVERING)


def test_abandon_that_repeats_backs_off() -> None:
    """A bug that every attempt meets does not make a hot loop."""
    book = Playbook() >> tell(Started) << order(RunAttempt)
    _abandoned(book) << order(EndSession)
    book >> tell(SessionEnded) << order(RunAttempt, number=2)
    _abandoned(book) << order(EndSession)
    book >> tell(SessionEnded) << order(WaitRetry, until_s=0.5) << order(WatchCues)

    book.shows(State.DISCONNECTED, retry_at_s=0.5)


def test_abandon_while_paused_stays_paused() -> None:
    """The operator's wish outlives a bug."""
    book = attached() >> tell(PauseRequested) << order(EndSession)
    _abandoned(book) >> tell(SessionEnded)

    book.shows(State.DISCONNECTED, desired=Desired.PAUSED).awaits()
