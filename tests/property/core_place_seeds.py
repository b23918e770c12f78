"""The faults that `test_core_faults` seeds into what the core knows of candidates and places."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from castrayd.core import effects, health
from castrayd.core.cluster import Place
from castrayd.core.commands import RunAttempt
from castrayd.core.states import Trigger
from castrayd.errors import ErrorType, Retry
from tests.property.core_seeds import Seeder, fault


def _wrap(seed: Seeder, name: str, broken: Callable[..., Any]) -> None:
    """Replace a helper of the effects; `broken` gets the original first."""
    seed.name(effects, name, partial(broken, getattr(effects, name)))


@fault()
def hold_never_doubles(seed: Seeder) -> None:
    seed.name(effects, "_MOVES", 0)


@fault()
def hold_has_no_cap(seed: Seeder) -> None:
    def watch(sound: Any, snapshot: Any, kinds: Any, policy: Any) -> Any:
        return sound(snapshot, kinds, replace(policy, failback=replace(policy.failback, max_s=1e9)))

    _wrap(seed, "_watch_cues", watch)


@fault()
def hold_never_starts_anew(seed: Seeder) -> None:
    def without(sound: Any, snapshot: Any, *rest: Any) -> Any:
        return replace(sound(snapshot, *rest), failbacks=snapshot.failbacks)

    _wrap(seed, "_without_session", without)


@fault()
def hold_starts_anew_anywhere(seed: Seeder) -> None:
    def without(sound: Any, snapshot: Any, *rest: Any) -> Any:
        return sound(replace(snapshot, place=Place()), *rest)

    _wrap(seed, "_without_session", without)


@fault()
def failback_is_not_counted(seed: Seeder) -> None:
    def cue(sound: Any, *arguments: Any) -> Any:
        changed, commands = sound(*arguments)
        return replace(changed, failbacks=arguments[0].failbacks), commands

    seed.effect("cue_attached", cue)


@fault()
def every_cue_counts_as_a_failback(seed: Seeder) -> None:
    def cue(sound: Any, *arguments: Any) -> Any:
        changed, commands = sound(*arguments)
        return replace(changed, failbacks=arguments[0].failbacks + 1), commands

    seed.effect("cue_attached", cue)


@fault()
def preferred_is_not_watched_for(seed: Seeder) -> None:
    seed.name(effects, "_attuned", lambda change, _policy: change)


@fault()
def preferred_is_forgotten_when_rejected(seed: Seeder) -> None:
    def watch(sound: Any, snapshot: Any, kinds: Any, policy: Any) -> Any:
        rejected = kinds & {Trigger.CREDENTIALS_CHANGED}
        return sound(snapshot, rejected or kinds, policy)

    _wrap(seed, "_watch_cues", watch)


@fault()
def new_token_is_not_watched_for(seed: Seeder) -> None:
    seed.name(effects, "_CREDENTIALS", frozenset())


@fault()
def cues_follow_one_candidate(seed: Seeder) -> None:
    _wrap(seed, "_cues_after", lambda sound, faults: sound(faults[:1]))


@fault()
def other_cluster_waits_to_settle(seed: Seeder) -> None:
    def urgent(sound: Any, reason: Any) -> bool:
        return reason.type is not ErrorType.OTHER_CLUSTER and sound(reason)

    _wrap(seed, "_urgent", urgent)


def _placing(seed: Seeder, broken: Callable[[Any, Any], dict[str, Any]]) -> None:
    """Make other fields of an attachment, from what was before it and what is now."""

    def placed(sound: Any, snapshot: Any, place: Place) -> Any:
        changed = sound(snapshot, place)
        return replace(changed, **broken(snapshot, changed))

    _wrap(seed, "_placed", placed)


@fault()
def other_cluster_never_counts(seed: Seeder) -> None:
    _placing(seed, lambda _, now: {} if now.place.fallback else {"health": health.Health()})


@fault()
def home_follows_every_attachment(seed: Seeder) -> None:
    _placing(seed, lambda _, now: {} if now.place.fallback else {"home": now.place.cluster_id})


@fault()
def home_follows_the_fallback(seed: Seeder) -> None:
    _placing(seed, lambda _, now: {"home": now.place.cluster_id} if now.place.fallback else {})


@fault()
def home_never_changes(seed: Seeder) -> None:
    _placing(seed, lambda before, now: {"home": before.home or now.home})


@fault()
def unreachable_is_cleared_by_the_fallback(seed: Seeder) -> None:
    _placing(seed, lambda *_: {"unreachable_s": None})


@fault()
def unreachable_is_cleared_by_no_attachment(seed: Seeder) -> None:
    _placing(seed, lambda before, _: {"unreachable_s": before.unreachable_s})


@fault()
def unreachable_is_not_cleared_by_an_operator_fault(seed: Seeder) -> None:
    def since(sound: Any, snapshot: Any, faults: Any) -> Any:
        return sound(snapshot, tuple(one for one in faults if one.retry is Retry.TRANSIENT))

    _wrap(seed, "_unreachable_since", since)


@fault()
def unreachable_is_decided_by_one_candidate(seed: Seeder) -> None:
    _wrap(seed, "_unreachable_since", lambda sound, snapshot, faults: sound(snapshot, faults[:1]))


@fault()
def unreachable_begins_with_each_attempt(seed: Seeder) -> None:
    def since(sound: Any, snapshot: Any, faults: Any) -> Any:
        return sound(replace(snapshot, unreachable_s=None), faults)

    _wrap(seed, "_unreachable_since", since)


@fault()
def unreachable_is_not_told(seed: Seeder) -> None:
    def launch(sound: Any, *arguments: Any) -> Any:
        changed, (run,) = sound(*arguments)
        return changed, (replace(run, unreachable_s=None),)

    _wrap(seed, "_launch", launch)


@fault()
def fallback_retry_is_not_capped(seed: Seeder) -> None:
    seed.name(effects, "_fallback_due_s", lambda *_: math.inf)


@fault()
def fallback_retry_is_capped_for_ever(seed: Seeder) -> None:
    _wrap(seed, "_fallback_due_s", lambda sound, _began_s, *rest: sound(-math.inf, *rest))


@fault()
def fallback_retry_has_no_gap(seed: Seeder) -> None:
    def due(sound: Any, began_s: float, _ended_s: float, *rest: Any) -> Any:
        return sound(began_s, -math.inf, *rest)

    _wrap(seed, "_fallback_due_s", due)


def _remembering(sound: Any, snapshot: Any, *rest: Any) -> Any:
    changed, commands = sound(snapshot, *rest)
    since_s = snapshot.unreachable_s
    told = [replace(one, unreachable_s=since_s) if isinstance(one, RunAttempt) else one
            for one in commands]  # fmt: skip
    return replace(changed, unreachable_s=since_s), tuple(told)


@fault()
def reload_keeps_what_was_out_of_reach_while_it_waits(seed: Seeder) -> None:
    seed.effect("reload_idle", _remembering)


@fault()
def reload_keeps_what_was_out_of_reach_while_it_tries(seed: Seeder) -> None:
    seed.effect("reload_trying", _remembering)


@fault()
def attempt_that_is_aimed_anew_keeps_its_trigger(seed: Seeder) -> None:
    def aimed(sound: Any, snapshot: Any, at_s: float, trigger: Any, address: Any = None) -> Any:
        planned = snapshot.planned if snapshot.ending else None
        return sound(snapshot, at_s, planned.trigger if planned else trigger, address)

    _wrap(seed, "_now_or_after_end", aimed)
