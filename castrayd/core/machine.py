"""The state machine of the attachment: one table, one pure function.

Theory of operation. The table says what can change the attachment's state, `effects` says how. The
supervisor feeds `step` one event after another; `step` looks the pair (state, type of event) up
in `TRANSITIONS`, lets that row's effect make the next snapshot, and returns it with the commands
to perform. No clock, randomness or I/O: time and jitter arrive inside events.

* **Epochs.** Every command takes a fresh epoch and is noted in `Snapshot.awaiting` under its
  slot. An answer whose epoch is not awaited is stale and dropped before the table is asked. The
  shell cancels what is not awaited any more, so giving a slot up is how work is called off.
* **One session.** A session lives from `RunAttempt` until `EndSession` is answered. No attempt
  begins while an end is awaited; what shall follow it waits in `Snapshot.planned`.
* **Desired and observed.** Requests change `desired`; the state follows from what is seen.
* **Degraded.** `Health` turns check reports into reasons. Attachment reasons start the grace.
  When they clear in time the cluster is asked for its id again before the state is connected:
  a GCS that was restarted without its memory looks healthy and ends the session a moment later.
* **Preference.** An attachment knows how many candidates were preferred to it. While there are
  any the shell looks for their return, and the hold before a move to another cluster doubles with
  each move, so that a cluster that comes and goes is not followed for ever.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from castrayd.core import effects as do
from castrayd.core import events as e
from castrayd.core.effects import Change, Effect
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import State
from castrayd.errors import InvalidTransitionError

__all__ = ("TRANSITIONS", "Row", "diagram", "step")


class Row(NamedTuple):
    """One cell of the table: what happens, and the states it may lead to."""

    effect: Effect
    targets: tuple[State, ...]


def step(snapshot: Snapshot, event: e.Event, policy: Policy) -> Change:
    """Apply one event. Raises `InvalidTransitionError` on a pair that the table lacks."""
    if _is_stale(snapshot, event):
        return snapshot, ()
    row = TRANSITIONS.get((snapshot.state, type(event)))
    if row is None:
        raise InvalidTransitionError(snapshot.state, type(event).__name__)
    changed, commands = row.effect(snapshot, event, policy)
    if changed.state not in row.targets:
        raise InvalidTransitionError(snapshot.state, f"{type(event).__name__} to {changed.state}")
    if changed.state is not snapshot.state:
        changed = replace(changed, since_s=event.at_s)
    return changed, commands


def _is_stale(snapshot: Snapshot, event: e.Event) -> bool:
    if isinstance(event, e.REQUESTS):
        return False
    answer = cast("e.Answer", event)
    return snapshot.awaiting.get(answer.SLOT) != answer.epoch


_D, _S, _C, _G = State.DISCONNECTED, State.DISCOVERING, State.CONNECTED, State.DEGRADED

TRANSITIONS: Final[Mapping[tuple[State, type[e.Event]], Row]] = MappingProxyType(
    {
        (_D, e.Started): Row(do.start, (_D, _S)),
        (_D, e.ReconnectRequested): Row(do.reconnect_idle, (_D, _S)),
        (_D, e.PauseRequested): Row(do.pause_idle, (_D,)),
        (_D, e.ResumeRequested): Row(do.resume, (_D, _S)),
        (_D, e.ConfigReloaded): Row(do.reload_idle, (_D, _S)),
        (_D, e.StopRequested): Row(do.stop, (_D,)),
        (_D, e.SessionEnded): Row(do.ended, (_D, _S)),
        (_D, e.RetryDue): Row(do.retry, (_S,)),
        (_D, e.CueSeen): Row(do.cue_idle, (_S,)),
        (_S, e.ReconnectRequested): Row(do.reconnect_trying, (_S,)),
        (_S, e.PauseRequested): Row(do.pause, (_D,)),
        (_S, e.ResumeRequested): Row(do.stay, (_S,)),
        (_S, e.ConfigReloaded): Row(do.reload_trying, (_S,)),
        (_S, e.StopRequested): Row(do.stop, (_D,)),
        (_S, e.AttemptSucceeded): Row(do.attached, (_C, _G)),
        (_S, e.AttemptFailed): Row(do.failed, (_D,)),
        (_S, e.SessionEnded): Row(do.ended, (_S,)),
        (_C, e.ReconnectRequested): Row(do.reconnect_attached, (_D,)),
        (_C, e.PauseRequested): Row(do.pause, (_D,)),
        (_C, e.ResumeRequested): Row(do.stay, (_C,)),
        (_C, e.ConfigReloaded): Row(do.reload_attached, (_C, _D, _G)),
        (_C, e.StopRequested): Row(do.stop, (_D,)),
        (_C, e.SessionExited): Row(do.lost, (_D,)),
        (_C, e.CheckReported): Row(do.checked, (_C, _G)),
        (_C, e.CueSeen): Row(do.cue_attached, (_D,)),
        (_C, e.SettleElapsed): Row(do.settled, (_C, _G)),
        (_G, e.ReconnectRequested): Row(do.reconnect_attached, (_D,)),
        (_G, e.PauseRequested): Row(do.pause, (_D,)),
        (_G, e.ResumeRequested): Row(do.stay, (_G,)),
        (_G, e.ConfigReloaded): Row(do.reload_attached, (_D, _G, _C)),
        (_G, e.StopRequested): Row(do.stop, (_D,)),
        (_G, e.SessionExited): Row(do.lost, (_D,)),
        (_G, e.CheckReported): Row(do.checked, (_C, _G)),
        (_G, e.CueSeen): Row(do.cue_attached, (_D,)),
        (_G, e.SettleElapsed): Row(do.settled, (_G,)),
        (_G, e.IdentityVerified): Row(do.verified, (_C, _G)),
        (_G, e.GraceElapsed): Row(do.given_up, (_D,)),
        (_G, e.SessionEnded): Row(do.ended, (_D, _S)),
    }
)


def diagram() -> str:
    """Draw the table as a mermaid state diagram; events that change nothing are left out."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.DISCONNECTED}"]
    arrows: dict[tuple[State, State], list[str]] = {}
    for (source, event), row in TRANSITIONS.items():
        for target in row.targets:
            if target is not source:
                arrows.setdefault((source, target), []).append(event.__name__)
    for (source, target), names in arrows.items():
        lines.append(f"    {source} --> {target}: {', '.join(names)}")
    return "\n".join(lines)
