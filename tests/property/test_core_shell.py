"""Any shell: Hypothesis performs the core's commands, late, twice and out of order.

The model beside it knows nothing of the core but its orders: which session lives, what was
answered already, how many attempts were allotted since the last stable connection.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from castrayd.core import events as e
from castrayd.core.cluster import Place
from castrayd.core.commands import (
    Command,
    EndSession,
    RunAttempt,
    Slot,
    VerifyIdentity,
    WaitGrace,
    WaitRetry,
    WaitSettle,
    WatchCues,
    WatchSession,
)
from castrayd.core.health import ATTACHMENT_REASONS, FINAL_REASONS, Check, CheckReport
from castrayd.core.machine import step
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType, Fault, Retry
from tests.unit.test_core_machine import assert_consistent
from tests.unit.test_core_playbook import failure, seen

__all__ = ("Shell",)

ATTACHED = {State.CONNECTED, State.DEGRADED}
ANSWERS: dict[type[Command], type[e.Event]] = {
    RunAttempt: e.AttemptSucceeded,
    EndSession: e.SessionEnded,
    WatchSession: e.SessionExited,
    VerifyIdentity: e.IdentityVerified,
    WaitGrace: e.GraceElapsed,
    WaitSettle: e.SettleElapsed,
    WaitRetry: e.RetryDue,
    WatchCues: e.CueSeen,
}
"""The final answer of each order, where all goes well."""
PLACES = (Place(0, "a"), Place(1, "b"), Place(2, "c", fallback=True), Place(0, None))
JITTERS = st.sampled_from([0.5, 0.75, 0.99])
PAUSES_S = st.sampled_from([0.0, 0.01, 0.5, 2.0, 9.0, 31.0, 400.0])
FAILURES = st.sampled_from(
    [
        None,
        None,
        failure(ErrorType.TCP_REFUSED),
        failure(ErrorType.NO_LOCAL_NODE),
        failure(ErrorType.AUTH_REJECTED),
        failure(ErrorType.INIT_FAILED),
    ]
)
LOSSES = st.sampled_from(
    [
        seen(ErrorType.CONTROL_PLANE_LOST),
        seen(ErrorType.SESSION_UNRESPONSIVE),
        seen(ErrorType.LOCAL_NODE_LOST),
    ]
)
NOISE = st.sampled_from(
    [None, seen(ErrorType.CONTROL_PLANE_TIMEOUT), seen(ErrorType.NODES_BELOW_MINIMUM)]
)
REPORTS = st.builds(CheckReport, st.sampled_from(Check), NOISE | LOSSES, st.booleans())
PICKS = st.integers(0, 7)
"""Which of several: taken modulo how many there are."""
Make = Callable[[float], e.Event]
"""A request, or an answer that is on its way, without its time."""

REQUESTS: st.SearchStrategy[Make] = st.sampled_from(
    [
        lambda at_s: e.ReconnectRequested(at_s),
        lambda at_s: e.ReconnectRequested(at_s, "b:2"),
        lambda at_s: e.ReconnectRequested(at_s, "c:3"),
        lambda at_s: e.ConfigReloaded(at_s, reconnect=True),
        lambda at_s: e.ConfigReloaded(at_s, reconnect=False),
        e.ResumeRequested,
        e.ResumeRequested,
    ]
)
SELDOM = st.integers(0, 9).map(lambda n: n == 0)


class Shell(RuleBasedStateMachine):
    """Plays supervisor and operator against `step`."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy()
        self.snapshot = Snapshot("run")
        self.now_s = 0.0
        self.orders: dict[Slot, Command] = {}
        """The last order of each slot."""
        self.answered: set[int] = set()
        self.barrier = 0
        """Epoch of the last order before which everything was called off."""
        self.posted: list[Make] = []
        self.told: list[e.Event] = []
        self.ending = False
        self.live = False
        """Whether a session may live: from RunAttempt to its failure, or to the end's answer."""
        self.ids: set[str] = set()
        self.serial = 0
        self.allotted = 0
        """Attempts since the last connection that was stable."""
        self.began_s = 0.0
        self.attached_s: float | None = None
        self.unverified = False
        """Whether the cluster must be asked for its id before it may be called connected."""

    @initialize(desired=st.sampled_from([Desired.UP, Desired.UP, Desired.PAUSED]), fault=FAILURES)
    def begin(self, desired: Desired, fault: Fault | None) -> None:
        self.snapshot = Snapshot("run", desired=desired)
        self.feed(e.Started(self.now_s))
        for order in self.under_way():
            self.feed(self.answer(order, fault, 0.5)(self.now_s))

    # --- what can happen ----------------------------------------------------------------------

    @precondition(lambda self: self.under_way())
    @rule(pick=PICKS, after_s=PAUSES_S, fault=FAILURES, jitter=JITTERS, late=SELDOM)
    def finish(
        self, pick: int, after_s: float, fault: Fault | None, jitter: float, *, late: bool
    ) -> None:
        """Finish a command that is under way; its answer comes at once or any time later."""
        self.now_s += after_s
        order = self.under_way()[pick % len(self.under_way())]
        make = self.answer(order, fault, jitter)
        if late:
            self.posted.append(make)
        else:
            self.feed(make(self.now_s))

    @precondition(lambda self: self.under_way())
    @rule()
    def finish_attempt_or_end(self) -> None:
        """Get on: without this most stories would be about waiting."""
        self.finish_all(Slot.END)
        self.finish_all(Slot.ATTEMPT)

    @precondition(lambda self: self.posted)
    @rule(pick=PICKS)
    def deliver(self, pick: int) -> None:
        """Let an answer that is on its way arrive, whichever."""
        self.feed(self.posted.pop(pick % len(self.posted))(self.now_s))

    @precondition(lambda self: self.told)
    @rule(pick=PICKS)
    def repeat(self, pick: int) -> None:
        """Deliver one of the last answers a second time."""
        self.feed(self.told[-1 - pick % len(self.told)])

    @precondition(lambda self: Slot.WATCH in self.snapshot.awaiting)
    @rule(report=REPORTS, after_s=PAUSES_S)
    def report(self, report: CheckReport, after_s: float) -> None:
        """Let a check say something."""
        self.now_s += after_s
        self.feed(e.CheckReported(self.now_s, self.snapshot.awaiting[Slot.WATCH], report))

    @precondition(lambda self: Slot.WATCH in self.snapshot.awaiting)
    @rule(fault=LOSSES, check=st.sampled_from([Check.GCS, Check.RAYLET]), after_s=PAUSES_S)
    def lose(self, fault: Fault, check: Check, after_s: float) -> None:
        """Let a check be certain that something is lost."""
        self.report(CheckReport(check, fault), after_s)

    @precondition(lambda self: self.snapshot.state is State.DEGRADED)
    @rule()
    def recover(self) -> None:
        """Let every check be good again."""
        self.checks_turn_good()

    @rule(make=REQUESTS, after_s=PAUSES_S)
    def ask(self, make: Make, after_s: float) -> None:
        """Let an operator ask for something, whatever the state."""
        self.now_s += after_s
        event = make(self.now_s)
        self.feed(event)
        match event:
            case e.ResumeRequested():
                assert self.snapshot.desired is Desired.UP
            case e.ReconnectRequested(address=address) if self.wanted():
                refs = (self.snapshot.attempt, self.snapshot.planned)
                assert any(ref and address in (None, ref.address) for ref in refs)

    @precondition(lambda self: self.wanted())
    @rule()
    def pause(self) -> None:
        self.feed(e.PauseRequested(self.now_s))
        assert self.snapshot.desired is Desired.PAUSED

    @precondition(lambda self: self.serial > 3)
    @rule(really=SELDOM)
    def stop(self, *, really: bool) -> None:
        if really:
            self.feed(e.StopRequested(self.now_s))
            assert self.snapshot.stopping

    # --- the shell ----------------------------------------------------------------------------

    def wanted(self) -> bool:
        return self.snapshot.desired is Desired.UP and not self.snapshot.stopping

    def under_way(self) -> list[Command]:
        """Return the orders that are awaited and have no answer on its way."""
        return [
            self.orders[slot]
            for slot, epoch in sorted(self.snapshot.awaiting.items())
            if epoch == self.orders[slot].epoch and epoch not in self.answered
        ]

    def made(self, kind: Any, order: Command, **fields: Any) -> Make:
        until_s = getattr(order, "until_s", 0.0)
        return lambda at_s: kind(at_s=max(at_s, until_s), epoch=order.epoch, **fields)

    def answer(self, order: Command, fault: Fault | None, jitter: float) -> Make:
        """Make the order's final answer, a bad one if there is a fault."""
        self.answered.add(order.epoch)
        kind, fields = ANSWERS[type(order)], dict[str, Any]()
        match order:
            case RunAttempt() if fault:
                kind, fields = e.AttemptFailed, {"fault": fault, "jitter": jitter}
            case EndSession():
                fields = {"jitter": jitter}
            case VerifyIdentity():
                fields = {"fault": seen(ErrorType.CLUSTER_REPLACED) if fault else None}
            case RunAttempt():
                fields = {"place": PLACES[order.epoch % len(PLACES)]}
            case WatchCues(kinds=kinds):
                fields = {"trigger": min(kinds)}
            case WatchSession():
                fields = {"fault": seen(ErrorType.SESSION_EXITED)}
        return self.made(kind, order, **fields)

    # --- one step, and what must hold ---------------------------------------------------------

    def feed(self, event: e.Event) -> None:
        before, stale = self.snapshot, self.is_stale(event)
        if not stale:
            self.now_s = max(self.now_s, event.at_s)
        after, commands = step(before, event, self.policy)
        self.snapshot = after
        if stale:
            assert (before, ()) == (after, commands)
            return
        if isinstance(event, e.ANSWERS):
            self.told = [*self.told[-7:], event]
        self.follow(before, event, after)
        for command in commands:
            self.obey(command, event)
        self.check(before, event, commands)

    def is_stale(self, event: e.Event) -> bool:
        """Whether the answer is to an order called off, replaced or answered before."""
        if not isinstance(event, e.ANSWERS):
            return False
        epoch, current = event.epoch, self.orders[event.SLOT].epoch
        given_up = self.snapshot.awaiting.get(event.SLOT) != epoch
        repeated = event in self.told and not isinstance(event, e.CheckReported)
        model = repeated or epoch != current or epoch < self.barrier
        assert given_up or not model, "the core awaits what is over"
        return given_up

    def follow(self, before: Snapshot, event: e.Event, after: Snapshot) -> None:
        """Keep the model's books."""
        if isinstance(event, (e.AttemptFailed, e.SessionEnded)):
            self.live = False
        if isinstance(event, e.SessionEnded):
            self.ending = False
        if isinstance(event, e.AttemptSucceeded):
            self.attached_s, self.unverified = event.at_s, False
        if isinstance(event, e.IdentityVerified) and event.fault is None:
            types = {reason.type for reason in before.health.reasons()}
            assert not types & ATTACHMENT_REASONS, "an answer of before the last loss"
            self.unverified = False
        if self.attached_s is not None and after.state not in ATTACHED:
            if event.at_s - self.attached_s >= self.policy.backoff.stable_s:
                self.allotted = 0
            self.attached_s = None
        assert after.serial - self.serial in (0, 1)
        self.allotted += after.serial - self.serial
        self.serial = after.serial
        assert self.allotted == after.counted
        assert (before.since_s if before.state is after.state else event.at_s) == after.since_s

    def obey(self, command: Command, event: e.Event) -> None:
        """Take an order, unless it must not be given."""
        assert command.epoch > max((o.epoch for o in self.orders.values()), default=0)
        self.orders[command.SLOT] = command
        match command:
            case RunAttempt(attempt=ref):
                assert not self.live, "a session still lives"
                assert self.wanted()
                assert ref.id not in self.ids
                self.ids.add(ref.id)
                if isinstance(event, e.SessionEnded) and ref.trigger is Trigger.SESSION_LOST:
                    assert event.at_s >= self.began_s + self.wait_s(self.allotted - 1, event)
                self.live, self.barrier, self.began_s = True, command.epoch, event.at_s
            case EndSession():
                assert not self.ending
                self.ending, self.barrier = True, command.epoch
            case WaitRetry(until_s=until_s):
                self.check_retry(until_s, event)
            case WaitGrace(until_s=until_s):
                assert event.at_s + self.policy.checks.grace_s == until_s
                assert not self.unverified, "the grace is not prolonged"
                self.unverified = True
            case WaitSettle(until_s=until_s):
                assert event.at_s + self.policy.settle_s == until_s
            case WatchCues(kinds=kinds):
                self.check_cues(kinds, event)

    def check_cues(self, kinds: frozenset[Trigger], event: e.Event) -> None:
        """Check what is looked for against what has happened, written out once more."""
        attached = {Trigger.FAILBACK, Trigger.CREDENTIALS_CHANGED}
        if isinstance(event, e.SessionEnded):  # the wait after a loss
            assert kinds == {Trigger.CLUSTER_RETURNED, Trigger.DISCOVERY}
            return
        if not isinstance(event, e.AttemptFailed):
            assert kinds <= attached
            return
        blind = {"discover", "identity", "spawn", "init", "nodes"}
        assert Trigger.DISCOVERY in kinds
        assert Trigger.FAILBACK not in kinds
        assert (Trigger.CLUSTER_RETURNED in kinds) == (event.fault.phase not in blind)
        rejected = event.fault.type is ErrorType.AUTH_REJECTED
        assert (Trigger.CREDENTIALS_CHANGED in kinds) == rejected

    def check_retry(self, until_s: float, event: e.Event) -> None:
        """Check the wait against its bounds, written out once more."""
        assert isinstance(event, (e.AttemptFailed, e.SessionEnded))
        wait_s, backoff = self.wait_s(self.allotted, event), self.policy.backoff
        gap_s = backoff.gap_s if isinstance(event, e.AttemptFailed) else 0.0
        assert until_s == max(self.began_s + wait_s, event.at_s + gap_s)
        assert event.at_s <= until_s <= event.at_s + max(backoff.max_s, gap_s)
        assert self.snapshot.retry_at_s == until_s

    def wait_s(self, attempts: int, event: e.AttemptFailed | e.SessionEnded) -> float:
        """Return the wait after so many attempts; see DESIGN, "Backoff"."""
        backoff = self.policy.backoff
        if isinstance(event, e.AttemptFailed) and event.fault.retry is Retry.OPERATOR:
            return backoff.max_s * event.jitter
        if attempts <= 1:
            return 0.0
        return min(backoff.max_s, backoff.initial_s * 2.0 ** (attempts - 2)) * event.jitter

    def check(self, before: Snapshot, event: e.Event, commands: tuple[Command, ...]) -> None:
        now = self.snapshot
        assert_consistent(now)
        ending = Slot.END in now.awaiting
        assert now.epoch == before.epoch + len(commands)
        assert before.since_s <= now.since_s <= self.now_s
        assert now.state not in ATTACHED or self.live
        assert not (now.state is State.DISCONNECTED and not ending and self.live)
        assert not (now.state is State.CONNECTED and self.unverified)
        self.check_reasons(ending=ending)
        if isinstance(event, e.CheckReported) and event.report.fault is not None:
            urgent = event.report.fault.type in FINAL_REASONS
            assert urgent or not ending, "only a final reason costs the session at once"

    def check_reasons(self, *, ending: bool) -> None:
        types = {reason.type for reason in self.snapshot.reasons}
        assert ending or not types & FINAL_REASONS
        if types & ATTACHMENT_REASONS and not ending:
            assert Slot.GRACE in self.snapshot.awaiting

    # --- the end of every story ---------------------------------------------------------------

    def teardown(self) -> None:
        """Let everything go well: the attachment comes back; then stop: nothing is left."""
        if not self.snapshot.stopping:
            self.mend()
        self.feed(e.StopRequested(self.now_s))
        self.deliver_all()
        self.finish_all(Slot.END)
        assert {} == self.snapshot.awaiting
        assert not self.live

    def mend(self) -> None:
        self.feed(e.ResumeRequested(self.now_s))
        self.deliver_all()
        for _ in range(8):
            for slot in (Slot.END, Slot.RETRY, Slot.ATTEMPT):
                self.finish_all(slot)
            self.checks_turn_good()
            self.finish_all(Slot.VERIFY)
        assert self.snapshot.state is State.CONNECTED

    def deliver_all(self) -> None:
        while self.posted:
            self.feed(self.posted.pop(0)(self.now_s))

    def checks_turn_good(self) -> None:
        for check in sorted({*self.snapshot.health.faults, *self.snapshot.health.misses}):
            if watch := self.snapshot.awaiting.get(Slot.WATCH):
                self.feed(e.CheckReported(self.now_s, watch, CheckReport(check, None)))

    def finish_all(self, slot: Slot) -> None:
        for order in self.under_way():
            if order.SLOT is slot:
                self.feed(self.answer(order, None, 0.5)(self.now_s))


TestShell = Shell.TestCase
TestShell.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    phases=[Phase.generate, Phase.shrink],  # to explain a failure takes minutes and says little
    report_multiple_bugs=False,
)
