"""What the rows of the transition table do: each effect makes the next snapshot. Pure.

`machine` alone calls these; which effect answers which event in which state is said there.
"""

import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, TypeAlias

from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.backoff import ceiling_s, retry_at_s
from castrayd.core.cluster import Place
from castrayd.core.commands import AttemptRef, Command, Slot
from castrayd.core.health import (
    ATTACHMENT_REASONS,
    FINAL_REASONS,
    Check,
    CheckReport,
    Health,
)
from castrayd.core.phases import RETURNABLE
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType, Fault, Phase, Retry

__all__ = (
    "Change",
    "Effect",
    "abandon",
    "attached",
    "checked",
    "cue_attached",
    "cue_idle",
    "ended",
    "failed",
    "given_up",
    "lost",
    "pause",
    "pause_idle",
    "reconnect_attached",
    "reconnect_idle",
    "reconnect_trying",
    "reload_attached",
    "reload_idle",
    "reload_trying",
    "resume",
    "retry",
    "settled",
    "start",
    "stay",
    "stop",
    "verified",
)

Change: TypeAlias = tuple[Snapshot, tuple[Command, ...]]
Effect: TypeAlias = Callable[[Snapshot, Any, Policy], Change]


def _order(
    snapshot: Snapshot, kind: Callable[..., Command], slot: Slot, **fields: object
) -> tuple[Snapshot, Command]:
    """Give a command a fresh epoch and await it."""
    epoch = snapshot.epoch + 1
    awaiting = {**snapshot.awaiting, slot: epoch}
    return replace(snapshot, epoch=epoch, awaiting=awaiting), kind(epoch=epoch, **fields)


def _give_up(snapshot: Snapshot, *slots: Slot) -> Snapshot:
    awaiting = {slot: n for slot, n in snapshot.awaiting.items() if slot not in slots}
    return replace(snapshot, awaiting=awaiting)


def _plan(snapshot: Snapshot, trigger: Trigger, address: str | None = None) -> Snapshot:
    """Allot an attempt, so that whoever asked for it can be told its id before it begins."""
    serial, counted = snapshot.serial + 1, snapshot.counted + 1
    ref = AttemptRef(f"{snapshot.run_id}-{serial}", counted, trigger, address)
    return replace(snapshot, serial=serial, counted=counted, planned=ref)


def _launch(snapshot: Snapshot, at_s: float) -> Change:
    """Begin the planned attempt; nothing else may be under way."""
    changed, run = _order(
        replace(snapshot, awaiting={}),
        c.RunAttempt,
        Slot.ATTEMPT,
        attempt=snapshot.planned,
        unreachable_s=snapshot.unreachable_s,
    )
    return replace(
        changed,
        state=State.DISCOVERING,
        attempt=snapshot.planned,
        planned=None,
        began_s=at_s,
        retry_at_s=None,
        reasons=(),
    ), (run,)


def _begin(snapshot: Snapshot, at_s: float, trigger: Trigger, address: str | None = None) -> Change:
    return _launch(_plan(snapshot, trigger, address), at_s)


def _end(snapshot: Snapshot, state: State, *, error: Fault | None = None) -> Change:
    """Give everything up and order the end; the answer decides what follows."""
    changed = replace(snapshot, state=state, retry_at_s=None, error=error or snapshot.error)
    if snapshot.ending:  # one end is enough: it leaves nothing behind
        return replace(changed, awaiting={Slot.END: snapshot.awaiting[Slot.END]}), ()
    changed, end = _order(replace(changed, awaiting={}), c.EndSession, Slot.END)
    return changed, (end,)


def _without_session(snapshot: Snapshot, at_s: float, policy: Policy) -> Snapshot:
    """Forget the attachment; one that lasted resets the count of attempts, or the hold."""
    lasted_s = 0.0 if snapshot.attached_s is None else at_s - snapshot.attached_s
    home = snapshot.place is not None and snapshot.place.rank == 0
    return replace(
        snapshot,
        counted=0 if lasted_s >= policy.backoff.stable_s else snapshot.counted,
        failbacks=0 if home and lasted_s >= policy.failback.max_s else snapshot.failbacks,
        attempt=None,
        planned=None,
        attached_s=None,
        place=None,
        settled=False,
        health=Health(),
        reasons=(),
    )


# --- effects: requests ------------------------------------------------------------------------


def stay(snapshot: Snapshot, _event: e.Event, _policy: Policy) -> Change:
    return snapshot, ()


def start(snapshot: Snapshot, event: e.Started, _policy: Policy) -> Change:
    if not snapshot.wants_attempts:
        return snapshot, ()
    return _begin(snapshot, event.at_s, Trigger.START)


def reconnect_idle(snapshot: Snapshot, event: e.ReconnectRequested, _policy: Policy) -> Change:
    if not snapshot.wants_attempts:
        return snapshot, ()
    return _now_or_after_end(snapshot, event.at_s, Trigger.MANUAL, event.address)


def reconnect_trying(snapshot: Snapshot, event: e.ReconnectRequested, _policy: Policy) -> Change:
    """Join the attempt under way, or with another address put a new one in its place."""
    if snapshot.ending:
        return _now_or_after_end(snapshot, event.at_s, Trigger.MANUAL, event.address)
    running = snapshot.attempt
    if event.address is None or (running is not None and event.address == running.address):
        return snapshot, ()
    return _end(_plan(snapshot, Trigger.MANUAL, event.address), State.DISCOVERING)


def reconnect_attached(snapshot: Snapshot, event: e.ReconnectRequested, policy: Policy) -> Change:
    """Break, then make; one that is being replaced already is broken here and now."""
    return _renew(snapshot, event.at_s, policy, Trigger.MANUAL, event.address)


def pause_idle(snapshot: Snapshot, _event: e.PauseRequested, _policy: Policy) -> Change:
    paused = _give_up(snapshot, Slot.RETRY, Slot.CUE)
    return replace(
        paused, desired=Desired.PAUSED, planned=None, retry_at_s=None, unreachable_s=None
    ), ()


def pause(snapshot: Snapshot, event: e.PauseRequested, policy: Policy) -> Change:
    ended = _without_session(snapshot, event.at_s, policy)
    return _end(replace(ended, desired=Desired.PAUSED, unreachable_s=None), State.DISCONNECTED)


def resume(snapshot: Snapshot, event: e.ResumeRequested, _policy: Policy) -> Change:
    if snapshot.desired is Desired.UP or snapshot.stopping:
        return replace(snapshot, desired=Desired.UP), ()
    wanted = replace(snapshot, desired=Desired.UP)
    return _now_or_after_end(wanted, event.at_s, Trigger.RESUME)


def reload_idle(snapshot: Snapshot, event: e.ConfigReloaded, _policy: Policy) -> Change:
    if not (event.reconnect and snapshot.wants_attempts):
        return snapshot, ()
    aimed = replace(snapshot, unreachable_s=None)
    return _now_or_after_end(aimed, event.at_s, Trigger.CONFIG_RELOAD)


def reload_trying(snapshot: Snapshot, event: e.ConfigReloaded, _policy: Policy) -> Change:
    if not event.reconnect or snapshot.ending:
        return snapshot, ()
    aimed = replace(snapshot, unreachable_s=None)
    return _end(_plan(aimed, Trigger.CONFIG_RELOAD), State.DISCOVERING)


def reload_attached(snapshot: Snapshot, event: e.ConfigReloaded, policy: Policy) -> Change:
    if snapshot.ending:
        return snapshot, ()
    if event.reconnect:
        aimed = replace(snapshot, unreachable_s=None)
        return _renew(aimed, event.at_s, policy, Trigger.CONFIG_RELOAD)
    return _moved(snapshot, event, policy)


def _moved(snapshot: Snapshot, event: e.ConfigReloaded, policy: Policy) -> Change:
    """The session stays; what is preferred to it may be something else now."""
    place = snapshot.place
    if place is None or (place.rank, place.fallback) == (event.rank, event.fallback):
        return snapshot, ()
    now = replace(place, rank=event.rank, fallback=event.fallback)
    moved = _placed(_give_up(snapshot, Slot.CUE), now)
    return _assess(moved, event.at_s, policy)


def stop(snapshot: Snapshot, event: e.StopRequested, policy: Policy) -> Change:
    ended = _without_session(snapshot, event.at_s, policy)
    return _end(replace(ended, stopping=True), State.DISCONNECTED)


def _now_or_after_end(
    snapshot: Snapshot, at_s: float, trigger: Trigger, address: str | None = None
) -> Change:
    """Begin an attempt; while an end is under way plan it, or aim the planned one anew."""
    if not snapshot.ending:
        return _begin(snapshot, at_s, trigger, address)
    if snapshot.planned is None:
        return _plan(snapshot, trigger, address), ()
    if address is None:
        return snapshot, ()
    aimed = replace(snapshot.planned, trigger=trigger, address=address)
    return replace(snapshot, planned=aimed), ()


def _renew(
    snapshot: Snapshot, at_s: float, policy: Policy, trigger: Trigger, address: str | None = None
) -> Change:
    ended = _without_session(snapshot, at_s, policy)
    return _end(_plan(ended, trigger, address), State.DISCONNECTED)


# --- effects: attempts and their ends ---------------------------------------------------------


def attached(snapshot: Snapshot, event: e.AttemptSucceeded, policy: Policy) -> Change:
    """Watch the session, and where candidates are preferred to this one, for their return."""
    attached = _placed(snapshot, event.place)
    attached = replace(attached, awaiting={}, attached_s=event.at_s)
    attached, watch = _order(attached, c.WatchSession, Slot.WATCH)
    attached, settle = _order(
        attached, c.WaitSettle, Slot.SETTLE, until_s=event.at_s + policy.settle_s
    )
    judged, _ = _judged(attached, event.at_s, policy)  # so far by its place alone
    return _attuned((judged, (watch, settle)), policy)


def _placed(snapshot: Snapshot, place: Place) -> Snapshot:
    """Note where the attachment stands, and what of that is a reason to be degraded."""
    home = snapshot.home
    if place.cluster_id is not None and not place.fallback and (place.rank == 0 or home is None):
        home = place.cluster_id
    fault = None
    if place.fallback:
        message = "what is configured is out of reach; this cluster was started here"
        fault = Fault.of(ErrorType.LOCAL_FALLBACK, Phase.ATTACHED, message)
    elif place.rank > 0 and place.cluster_id not in {None, home}:
        message = f"attached to cluster {place.cluster_id} instead of {home}"
        fault = Fault.of(ErrorType.OTHER_CLUSTER, Phase.ATTACHED, message)
    return replace(
        snapshot,
        place=place,
        home=home,
        unreachable_s=snapshot.unreachable_s if place.fallback else None,
        health=snapshot.health.updated(CheckReport(Check.PLACE, fault)),
    )


def _attuned(change: Change, policy: Policy) -> Change:
    """Look for what may end this attachment, and for nothing that was a cue before."""
    snapshot, commands = change
    if snapshot.place is None or snapshot.ending:
        return change
    kinds = {Trigger.FAILBACK} if snapshot.place.rank > 0 else set[Trigger]()
    if any(reason.type in _CREDENTIALS for reason in snapshot.reasons):
        kinds.add(Trigger.CREDENTIALS_CHANGED)
    watched = snapshot.cues if Slot.CUE in snapshot.awaiting else frozenset()
    if kinds == watched:
        return change
    if not kinds:
        return _give_up(snapshot, Slot.CUE), commands
    snapshot, watch = _watch_cues(snapshot, kinds, policy)
    return snapshot, (*commands, watch)


def _watch_cues(
    snapshot: Snapshot, kinds: AbstractSet[Trigger], policy: Policy
) -> tuple[Snapshot, Command]:
    longest_s, moves = policy.failback.max_s, min(snapshot.failbacks, _MOVES)
    return _order(
        replace(snapshot, cues=frozenset(kinds)),
        c.WatchCues,
        Slot.CUE,
        kinds=frozenset(kinds),
        hold_s=min(longest_s, policy.failback.good_s * 2.0**moves),
        same_hold_s=min(longest_s, 2.0**moves - 1.0),
    )


_MOVES: Final = 62
"""Beyond, a power of two says nothing and then overflows."""


def failed(snapshot: Snapshot, event: e.AttemptFailed, policy: Policy) -> Change:
    """Wait out the backoff, and meanwhile look for the cluster's return."""
    due_s = retry_at_s(
        began_s=snapshot.began_s,
        ended_s=event.at_s,
        failures=snapshot.counted,
        retry=event.fault.retry,
        jitter=event.jitter,
        policy=policy.backoff,
    )
    faults = (event.fault, *event.others)
    since_s = snapshot.unreachable_s
    if snapshot.attempt is None or snapshot.attempt.address is None:  # one asked for says nothing
        since_s = _unreachable_since(snapshot, faults)
    due_s = min(due_s, _fallback_due_s(snapshot.began_s, event.at_s, since_s, policy))
    waiting = replace(snapshot, error=event.fault, unreachable_s=since_s)
    waiting, wait = _wait(waiting, due_s)
    waiting, watch = _watch_cues(waiting, _cues_after(faults), policy)
    return waiting, (wait, watch)


def _unreachable_since(snapshot: Snapshot, faults: tuple[Fault, ...]) -> float | None:
    if all(fault.out_of_reach for fault in faults):
        return snapshot.began_s if snapshot.unreachable_s is None else snapshot.unreachable_s
    return None


def _fallback_due_s(began_s: float, ended_s: float, since_s: float | None, policy: Policy) -> float:
    """When the attempt that may start a local cluster is due: once, then the backoff rules."""
    if policy.fallback_after_s is None or since_s is None:
        return math.inf
    due_s = since_s + policy.fallback_after_s
    return math.inf if began_s >= due_s else max(due_s, ended_s + policy.backoff.gap_s)


def _cues_after(faults: tuple[Fault, ...]) -> set[Trigger]:
    """What may end the wait before its time."""
    kinds = {Trigger.DISCOVERY}
    if any(fault.phase in RETURNABLE for fault in faults):
        kinds.add(Trigger.CLUSTER_RETURNED)
    if any(fault.type in _CREDENTIALS for fault in faults):
        kinds.add(Trigger.CREDENTIALS_CHANGED)
    return kinds


_CREDENTIALS: Final = frozenset({ErrorType.AUTH_MISSING, ErrorType.AUTH_REJECTED})


def _wait(snapshot: Snapshot, due_s: float) -> tuple[Snapshot, Command]:
    waiting = replace(
        snapshot, state=State.DISCONNECTED, attempt=None, retry_at_s=due_s, awaiting={}
    )
    return _order(waiting, c.WaitRetry, Slot.RETRY, until_s=due_s)


def ended(snapshot: Snapshot, event: e.SessionEnded, policy: Policy) -> Change:
    """Nothing lives any more: rest, begin what was planned, or come back from a loss."""
    idle = replace(_give_up(snapshot, Slot.END), state=State.DISCONNECTED)
    if not idle.wants_attempts:
        return replace(idle, planned=None), ()
    if idle.planned is not None:
        return _launch(idle, event.at_s)
    return _after_loss(_without_session(idle, event.at_s, policy), event, policy)


def _after_loss(snapshot: Snapshot, event: e.SessionEnded, policy: Policy) -> Change:
    """The first retry comes at once; a connection that was never stable keeps backing off."""
    wait_s = ceiling_s(snapshot.counted, Retry.TRANSIENT, policy.backoff)
    due_s = snapshot.began_s + wait_s * event.jitter
    if due_s <= event.at_s:
        return _begin(snapshot, event.at_s, Trigger.SESSION_LOST)
    waiting, wait = _wait(snapshot, due_s)
    kinds = {Trigger.CLUSTER_RETURNED, Trigger.DISCOVERY}
    waiting, watch = _watch_cues(waiting, kinds, policy)
    return waiting, (wait, watch)


def retry(snapshot: Snapshot, event: e.RetryDue, _policy: Policy) -> Change:
    return _begin(snapshot, event.at_s, Trigger.BACKOFF)


def cue_idle(snapshot: Snapshot, event: e.CueSeen, _policy: Policy) -> Change:
    return _begin(snapshot, event.at_s, event.trigger)


def cue_attached(snapshot: Snapshot, event: e.CueSeen, policy: Policy) -> Change:
    """Break, then make; a move to a preferred candidate is counted until it has lasted."""
    changed, commands = _renew(snapshot, event.at_s, policy, event.trigger)
    moved = changed.failbacks + (event.trigger is Trigger.FAILBACK)
    return replace(changed, failbacks=moved), commands


# --- effects: an attachment's health ----------------------------------------------------------


def lost(snapshot: Snapshot, event: e.SessionExited, policy: Policy) -> Change:
    ended = _without_session(snapshot, event.at_s, policy)
    return _end(ended, State.DISCONNECTED, error=event.fault)


def given_up(snapshot: Snapshot, event: e.GraceElapsed, policy: Policy) -> Change:
    ended = _without_session(snapshot, event.at_s, policy)
    return _end(ended, State.DISCONNECTED, error=snapshot.reasons[0])


def checked(snapshot: Snapshot, event: e.CheckReported, policy: Policy) -> Change:
    health = snapshot.health.updated(event.report)
    if health is snapshot.health:
        return snapshot, ()
    return _assess(replace(snapshot, health=health), event.at_s, policy)


def settled(snapshot: Snapshot, event: e.SettleElapsed, policy: Policy) -> Change:
    settled = replace(_give_up(snapshot, Slot.SETTLE), settled=True)
    return _assess(settled, event.at_s, policy)


def verified(snapshot: Snapshot, event: e.IdentityVerified, policy: Policy) -> Change:
    verified = _give_up(snapshot, Slot.VERIFY, Slot.GRACE)
    if event.fault is not None:
        return _replace_session(verified, (event.fault,))
    return _assess(verified, event.at_s, policy)


def _assess(snapshot: Snapshot, at_s: float, policy: Policy) -> Change:
    """Turn what the checks say into a state; see the theory of operation."""
    return _attuned(_judged(snapshot, at_s, policy), policy)


def _judged(snapshot: Snapshot, at_s: float, policy: Policy) -> Change:
    reasons = tuple(r for r in snapshot.health.reasons() if snapshot.settled or _urgent(r))
    if any(reason.type in FINAL_REASONS for reason in reasons):
        return _replace_session(snapshot, reasons)
    if any(reason.type in ATTACHMENT_REASONS for reason in reasons):
        return _with_grace(_showing(_give_up(snapshot, Slot.VERIFY), reasons), at_s, policy)
    if Slot.GRACE in snapshot.awaiting:
        return _with_verification(snapshot)
    return _showing(snapshot, reasons), ()


def _urgent(reason: Fault) -> bool:
    """Whether it counts at once: another cluster than the wanted one does not settle."""
    return reason.type in FINAL_REASONS | ATTACHMENT_REASONS | _MISPLACED


_MISPLACED: Final = frozenset({ErrorType.OTHER_CLUSTER, ErrorType.LOCAL_FALLBACK})


def _showing(snapshot: Snapshot, reasons: tuple[Fault, ...]) -> Snapshot:
    state = State.DEGRADED if reasons else State.CONNECTED
    return replace(snapshot, state=state, reasons=reasons, error=reasons[0] if reasons else None)


def _with_grace(snapshot: Snapshot, at_s: float, policy: Policy) -> Change:
    if Slot.GRACE in snapshot.awaiting:
        return snapshot, ()
    until_s = at_s + policy.checks.grace_s
    waiting, wait = _order(snapshot, c.WaitGrace, Slot.GRACE, until_s=until_s)
    return waiting, (wait,)


def _with_verification(snapshot: Snapshot) -> Change:
    """Back in time, but is it the same cluster? The old reasons stay shown until it has said so."""
    if Slot.VERIFY in snapshot.awaiting:
        return snapshot, ()
    asking, ask = _order(snapshot, c.VerifyIdentity, Slot.VERIFY)
    return asking, (ask,)


def _replace_session(snapshot: Snapshot, reasons: tuple[Fault, ...]) -> Change:
    """Show why, send the session nothing more, and put a new one in its place."""
    return _end(_showing(snapshot, reasons), State.DEGRADED)


def abandon(snapshot: Snapshot, at_s: float, fault: Fault, policy: Policy) -> Change:
    """Drop everything after a bug, so that the daemon goes on: no session, then a new attempt."""
    ended = _without_session(snapshot, at_s, policy)
    changed, commands = _end(ended, State.DISCONNECTED, error=fault)
    return replace(changed, since_s=at_s), commands
