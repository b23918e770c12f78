"""The faults that `test_core_faults` seeds into the core, each by replacing one rule's name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest

from castrayd.core import backoff, effects, health, machine
from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.commands import Slot
from castrayd.core.machine import Row
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import Phase, Retry

__all__ = ("FAULTS", "FOR_SHELL", "Seeder")

D, S, C, G = State.DISCONNECTED, State.DISCOVERING, State.CONNECTED, State.DEGRADED


# --- how a fault is made ----------------------------------------------------------------------


@dataclass(frozen=True)
class Seeder:
    """Replaces names of the core for the time of one test."""

    patch: pytest.MonkeyPatch

    def name(self, module: Any, name: str, value: Any) -> None:
        """Replace a helper, or a constant."""
        self.patch.setattr(module, name, value)

    def effect(self, name: str, broken: Callable[..., Any]) -> None:
        """Replace an effect in every row that has it; `broken` gets the original first."""
        sound = getattr(effects, name)

        def effect(*arguments: Any) -> Any:
            return broken(sound, *arguments)

        self.rows(
            {
                key: Row(effect, row.targets)
                for key, row in machine.TRANSITIONS.items()
                if row.effect is sound
            }
        )

    def rows(self, rows: Mapping[tuple[State, type[e.Event]], Row]) -> None:
        """Replace rows of the table."""
        table = MappingProxyType({**machine.TRANSITIONS, **rows})
        self.patch.setattr(machine, "TRANSITIONS", table)


Fault = Callable[[Seeder], None]
FAULTS: dict[str, Fault] = {}
FOR_SHELL: set[str] = set()
"""Faults that the shell must find by itself too."""


def fault(*, shell: bool = False) -> Callable[[Fault], Fault]:
    """Enter a fault under its name."""

    def enter(seed: Fault) -> Fault:
        FAULTS[seed.__name__] = seed
        if shell:
            FOR_SHELL.add(seed.__name__)
        return seed

    return enter


# --- epochs and orders ------------------------------------------------------------------------


@fault(shell=True)
def stale_answers_are_taken(seed: Seeder) -> None:
    seed.name(machine, "_is_stale", lambda _snapshot, _event: False)


@fault(shell=True)
def stale_means_slot_empty(seed: Seeder) -> None:
    def is_stale(snapshot: Any, event: Any) -> bool:
        return not isinstance(event, e.REQUESTS) and event.SLOT not in snapshot.awaiting

    seed.name(machine, "_is_stale", is_stale)


@fault(shell=True)
def epochs_are_reused(seed: Seeder) -> None:
    def order(snapshot: Any, kind: Any, slot: Slot, **fields: Any) -> Any:
        awaiting = {**snapshot.awaiting, slot: 1}
        return replace(snapshot, epoch=1, awaiting=awaiting), kind(epoch=1, **fields)

    seed.name(effects, "_order", order)


@fault(shell=True)
def launch_leaves_the_rest_awaited(seed: Seeder) -> None:
    sound = effects._launch

    def launch(snapshot: Any, at_s: float) -> Any:
        changed, commands = sound(snapshot, at_s)
        return replace(changed, awaiting={**snapshot.awaiting, **changed.awaiting}), commands

    seed.name(effects, "_launch", launch)


@fault(shell=True)
def state_keeps_its_age(seed: Seeder) -> None:
    seed.name(machine, "replace", lambda snapshot, **_fields: snapshot)


# --- one session ------------------------------------------------------------------------------


@fault(shell=True)
def attempt_begins_while_ending(seed: Seeder) -> None:
    seed.name(effects, "_now_or_after_end", effects._begin)


@fault(shell=True)
def attempt_is_replaced_without_an_end(seed: Seeder) -> None:
    def reconnect(sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        if event.address is None or snapshot.ending:
            return sound(snapshot, event, policy)
        return effects._begin(snapshot, event.at_s, Trigger.MANUAL, event.address)

    seed.effect("reconnect_trying", reconnect)


@fault(shell=True)
def loss_is_answered_without_an_end(seed: Seeder) -> None:
    def lost(_sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        idle = effects._without_session(snapshot, event.at_s, policy)
        return effects._begin(idle, event.at_s, Trigger.SESSION_LOST)

    seed.effect("lost", lost)
    targets = (D, S)
    row = machine.TRANSITIONS[C, e.SessionExited]
    seed.rows({(state, e.SessionExited): Row(row.effect, targets) for state in (C, G)})


@fault(shell=True)
def end_is_ordered_twice(seed: Seeder) -> None:
    def end(snapshot: Any, state: State, *, error: Any = None) -> Any:
        changed = replace(snapshot, state=state, retry_at_s=None, error=error or snapshot.error)
        changed, order = effects._order(replace(changed, awaiting={}), c.EndSession, Slot.END)
        return changed, (order,)

    seed.name(effects, "_end", end)


@fault(shell=True)
def end_leaves_the_attempt_awaited(seed: Seeder) -> None:
    sound = effects._end

    def end(snapshot: Any, state: State, *, error: Any = None) -> Any:
        changed, commands = sound(snapshot, state, error=error)
        return replace(changed, awaiting={**snapshot.awaiting, **changed.awaiting}), commands

    seed.name(effects, "_end", end)


@fault()
def grace_ends_without_an_end(seed: Seeder) -> None:
    def given_up(sound: Any, *arguments: Any) -> Any:
        changed, _ = sound(*arguments)
        return replace(changed, awaiting={}), ()

    seed.effect("given_up", given_up)


# --- requests ---------------------------------------------------------------------------------


@fault(shell=True)
def pause_leaves_the_retry(seed: Seeder) -> None:
    def pause(_sound: Any, snapshot: Any, _event: Any, _policy: Any) -> Any:
        return replace(snapshot, desired=Desired.PAUSED, planned=None), ()

    seed.effect("pause_idle", pause)


@fault(shell=True)
def pause_leaves_the_return_watched(seed: Seeder) -> None:
    sound = effects._give_up
    seed.name(
        effects,
        "_give_up",
        lambda snapshot, *slots: sound(snapshot, *(set(slots) - {Slot.CUE})),
    )


@fault(shell=True)
def pause_is_forgotten(seed: Seeder) -> None:
    def pause(sound: Any, *arguments: Any) -> Any:
        changed, commands = sound(*arguments)
        return replace(changed, desired=Desired.UP), commands

    seed.effect("pause", pause)


@fault(shell=True)
def pause_leaves_what_was_planned(seed: Seeder) -> None:
    def ended(sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        if snapshot.planned is not None:
            return effects._launch(snapshot, event.at_s)
        return sound(snapshot, event, policy)

    def pause(sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        changed, commands = sound(snapshot, event, policy)
        return replace(changed, planned=snapshot.planned), commands

    seed.effect("ended", ended)
    seed.effect("pause_idle", pause)


@fault(shell=True)
def stop_is_no_end(seed: Seeder) -> None:
    def stop(sound: Any, *arguments: Any) -> Any:
        changed, commands = sound(*arguments)
        return replace(changed, stopping=False), commands

    seed.effect("stop", stop)


@fault(shell=True)
def resume_while_ending_is_lost(seed: Seeder) -> None:
    def resume(sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        if snapshot.ending:
            return snapshot, ()
        return sound(snapshot, event, policy)

    seed.effect("resume", resume)


@fault(shell=True)
def reload_overrides_pause(seed: Seeder) -> None:
    def reload(_sound: Any, snapshot: Any, event: Any, _policy: Any) -> Any:
        if not event.reconnect:
            return snapshot, ()
        return effects._now_or_after_end(snapshot, event.at_s, Trigger.CONFIG_RELOAD)

    seed.effect("reload_idle", reload)


@fault(shell=True)
def reconnect_elsewhere_joins(seed: Seeder) -> None:
    seed.effect("reconnect_trying", lambda _sound, snapshot, *_: (snapshot, ()))


@fault()
def requested_address_is_stored(seed: Seeder) -> None:
    def retry(_sound: Any, snapshot: Any, event: Any, _policy: Any) -> Any:
        return effects._begin(snapshot, event.at_s, Trigger.BACKOFF, stored[-1])

    stored: list[str | None] = [None]
    plan = effects._plan

    def remember(snapshot: Any, trigger: Trigger, address: str | None = None) -> Any:
        stored.append(address)
        return plan(snapshot, trigger, address)

    seed.name(effects, "_plan", remember)
    seed.effect("retry", retry)


@fault()
def reconnect_while_replacing_remembers_the_session(seed: Seeder) -> None:
    def reconnect(sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        if not snapshot.ending:
            return sound(snapshot, event, policy)
        return effects._now_or_after_end(snapshot, event.at_s, Trigger.MANUAL, event.address)

    seed.effect("reconnect_attached", reconnect)
    row = machine.TRANSITIONS[G, e.ReconnectRequested]
    seed.rows({(G, e.ReconnectRequested): Row(row.effect, (D, G))})


# --- backoff ----------------------------------------------------------------------------------


@fault(shell=True)
def count_is_never_reset(seed: Seeder) -> None:
    sound = effects._without_session
    seed.name(
        effects,
        "_without_session",
        lambda snapshot, *rest: replace(sound(snapshot, *rest), counted=snapshot.counted),
    )


@fault(shell=True)
def count_is_reset_by_every_loss(seed: Seeder) -> None:
    sound = effects._without_session
    seed.name(
        effects,
        "_without_session",
        lambda snapshot, *rest: replace(sound(snapshot, *rest), counted=0),
    )


def _ceiling(seed: Seeder, broken: Callable[..., float]) -> None:
    sound = backoff.ceiling_s
    for module in (backoff, effects):
        seed.name(module, "ceiling_s", lambda *arguments: broken(sound, *arguments))


@fault(shell=True)
def operator_faults_are_retried_soon(seed: Seeder) -> None:
    _ceiling(seed, lambda sound, failures, _retry, p: sound(failures, Retry.TRANSIENT, p))


@fault(shell=True)
def wait_has_no_cap(seed: Seeder) -> None:
    _ceiling(seed, lambda sound, n, retry, p: sound(n, retry, replace(p, max_s=1e9)))


@fault(shell=True)
def wait_never_grows(seed: Seeder) -> None:
    _ceiling(seed, lambda sound, _failures, retry, p: sound(2, retry, p))


def _retry_at(seed: Seeder, **fields: Any) -> None:
    sound = backoff.retry_at_s
    seed.name(effects, "retry_at_s", lambda **known: sound(**known | fields))


@fault(shell=True)
def jitter_is_ignored(seed: Seeder) -> None:
    _retry_at(seed, jitter=1.0)


@fault(shell=True)
def attempts_have_no_gap(seed: Seeder) -> None:
    _retry_at(seed, ended_s=-1.0)


@fault(shell=True)
def wait_is_measured_from_the_end(seed: Seeder) -> None:
    sound = backoff.retry_at_s
    seed.name(effects, "retry_at_s", lambda **known: sound(**known | {"began_s": known["ended_s"]}))


@fault()
def flapping_does_not_back_off(seed: Seeder) -> None:
    def after_loss(snapshot: Any, event: Any, _policy: Any) -> Any:
        return effects._begin(snapshot, event.at_s, Trigger.SESSION_LOST)

    seed.name(effects, "_after_loss", after_loss)


@fault(shell=True)
def return_is_watched_for_blindly(seed: Seeder) -> None:
    seed.name(effects, "RETURNABLE", frozenset(Phase))


@fault()
def return_is_not_watched_for(seed: Seeder) -> None:
    seed.name(effects, "RETURNABLE", frozenset())


# --- health -----------------------------------------------------------------------------------


@fault(shell=True)
def verification_is_skipped(seed: Seeder) -> None:
    def well(snapshot: Any) -> Any:
        return effects._showing(effects._give_up(snapshot, Slot.GRACE), ()), ()

    seed.name(effects, "_with_verification", well)


@fault()
def verification_outlives_a_second_loss(seed: Seeder) -> None:
    sound = effects._give_up
    seed.name(
        effects,
        "_give_up",
        lambda snapshot, *slots: snapshot if slots == (Slot.VERIFY,) else sound(snapshot, *slots),
    )


@fault()
def grace_outlives_the_recovery(seed: Seeder) -> None:
    sound = effects._give_up
    seed.name(
        effects,
        "_give_up",
        lambda snapshot, *slots: sound(snapshot, *(set(slots) - {Slot.GRACE})),
    )


@fault()
def grace_begins_anew_with_each_reason(seed: Seeder) -> None:
    def with_grace(snapshot: Any, at_s: float, policy: Any) -> Any:
        return sound(effects._give_up(snapshot, Slot.GRACE), at_s, policy)

    sound = effects._with_grace
    seed.name(effects, "_with_grace", with_grace)


@fault(shell=True)
def final_reasons_have_a_grace(seed: Seeder) -> None:
    every = health.ATTACHMENT_REASONS | health.FINAL_REASONS
    seed.name(effects, "ATTACHMENT_REASONS", every)
    seed.name(effects, "FINAL_REASONS", frozenset())


@fault(shell=True)
def attachment_reasons_have_no_grace(seed: Seeder) -> None:
    every = health.ATTACHMENT_REASONS | health.FINAL_REASONS
    seed.name(effects, "FINAL_REASONS", every)


@fault()
def service_reasons_count_at_once(seed: Seeder) -> None:
    seed.name(effects, "_urgent", lambda _reason: True)


@fault()
def service_reasons_never_count(seed: Seeder) -> None:
    sound = effects._assess
    seed.name(
        effects,
        "_assess",
        lambda snapshot, *rest: _unsettled(sound, snapshot, *rest),
    )


def _unsettled(assess: Any, snapshot: Any, *rest: Any) -> Any:
    changed, commands = assess(replace(snapshot, settled=False), *rest)
    return replace(changed, settled=snapshot.settled), commands


@fault(shell=True)
def attachment_keeps_the_old_error(seed: Seeder) -> None:
    def attached(sound: Any, snapshot: Any, event: Any, policy: Any) -> Any:
        changed, commands = sound(snapshot, event, policy)
        return replace(changed, error=snapshot.error), commands

    seed.effect("attached", attached)


@fault()
def first_slow_answer_counts(seed: Seeder) -> None:
    seed.name(health, "_COUNTING_MISS", 1)


@fault()
def slow_answers_never_count(seed: Seeder) -> None:
    seed.name(health, "_COUNTING_MISS", 1_000_000)


@fault()
def misses_are_not_forgotten(seed: Seeder) -> None:
    def good(self: health.Health, check: health.Check) -> health.Health:
        return replace(self, faults=health._without(self.faults, check))

    seed.name(health.Health, "_good", good)


@fault()
def roots_hide_nothing(seed: Seeder) -> None:
    seed.name(health, "_HIDES", {})


@fault()
def roots_hide_everything(seed: Seeder) -> None:
    seed.name(health, "_HIDES", dict.fromkeys(health.Check, frozenset(health.Check)))
