"""Metrics: what facts count as, and what Prometheus reads of it."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from castrayd.core.states import Outcome, State, Trigger
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.supervisor.documents import AttemptDocument
from castrayd.telemetry.exposition import exposition
from castrayd.telemetry.facts import FACTS, AttemptEnded, ConfigReloaded, ConnectionLost
from castrayd.telemetry.metrics import Metrics, Standing

REFUSED = Fault.of(ErrorType.TCP_REFUSED, Phase.TCP, "head:6379: refused")
CALM = Standing(
    state=State.CONNECTED, paused=False, started=1_000.0, next_retry=None, last_connected=2_000.0,
    last_contact=1_999.0, nodes_alive=3, nodes_dead=1, casters_wanted=2,
    casters_ready=1, transfers_active=1, warnings=(), events_dropped=0,
)  # fmt: skip


def _ended(outcome: Outcome, error: Fault | None = None) -> AttemptEnded:
    phases = {"resolve": 0.001, "tcp": 0.02}
    return AttemptEnded(
        AttemptDocument(
            "r-1", 1, Trigger.START, outcome, "t", 0.3, phases, error, "head:6379", "config", ()
        )
    )


def _samples(metrics: Metrics, standing: Standing = CALM) -> dict[str, float]:
    return dict(_read(exposition(metrics, standing).decode()))


def _read(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            shown = ",".join(f"{key}={one}" for key, one in sorted(labels.items()))
            yield (f"{name}{{{shown}}}" if shown else name), value


def test_every_series_is_there_from_the_start() -> None:
    """A rate is seen from the first event on, and an alert for what never was is no gap."""
    quiet = Metrics()
    busy = Metrics()
    for kind in ErrorType:
        fault = Fault.of(kind, Phase.TCP, "of a test")
        busy.observe(_ended(Outcome.FAILURE, fault))
        busy.observe(ConnectionLost(1.0, fault))
    busy.observe(_ended(Outcome.SUCCESS))
    busy.observe(_ended(Outcome.CANCELLED))

    assert _samples(quiet).keys() == _samples(busy).keys()
    assert {f"castray_events_total{{name={fact.NAME}}}" for fact in FACTS} <= _samples(quiet).keys()


def test_attempts_are_counted_and_measured_once() -> None:
    """By outcome and class; phases of each attempt, those that failed too."""
    metrics = Metrics()
    for fact in (_ended(Outcome.FAILURE, REFUSED), _ended(Outcome.FAILURE, REFUSED),
                 _ended(Outcome.SUCCESS), _ended(Outcome.CANCELLED)):  # fmt: skip
        metrics.observe(fact)

    seen, duration = _samples(metrics), "castray_connection_attempt_duration_seconds"
    attempts = "castray_connection_attempts_total"
    assert seen[f"{attempts}{{error_type=tcp_refused,outcome=failure}}"] == 2
    assert seen[f"{attempts}{{error_type=,outcome=success}}"] == 1
    assert seen[f"{attempts}{{error_type=,outcome=cancelled}}"] == 1
    assert seen[f"{attempts}{{error_type=dns_failure,outcome=failure}}"] == 0
    assert seen[f"{duration}_count{{outcome=failure}}"] == 2
    assert seen[f"{duration}_sum{{outcome=failure}}"] == pytest.approx(0.6)
    assert seen[f"{duration}_bucket{{le=0.25,outcome=failure}}"] == 0
    assert seen[f"{duration}_bucket{{le=0.5,outcome=failure}}"] == 2
    assert seen[f"{duration}_bucket{{le=+Inf,outcome=failure}}"] == 2
    assert seen["castray_connection_phase_duration_seconds_count{phase=tcp}"] == 4
    assert seen["castray_connection_phase_duration_seconds_count{phase=init}"] == 0


def test_losses_and_reloads_are_counted_by_reason() -> None:
    """What a person wanted is no fault."""
    metrics = Metrics()
    for fact in (ConnectionLost(1.0, REFUSED), ConnectionLost(1.0, None), ConfigReloaded(),
                 ConfigReloaded(error="bad")):  # fmt: skip
        metrics.observe(fact)

    seen = _samples(metrics)
    assert seen["castray_disconnections_total{reason=tcp_refused}"] == 1
    assert seen["castray_disconnections_total{reason=requested}"] == 1
    assert seen["castray_config_reloads_total{outcome=success}"] == 1
    assert seen["castray_config_reloads_total{outcome=failure}"] == 1


@pytest.mark.parametrize("state", State)
def test_standing_is_shown_as_it_is(state: State) -> None:
    """One state is 1, the others are 0; what is not known is no number, or never."""
    seen = _samples(Metrics(), replace(CALM, state=state, next_retry=2_060.0))
    states = {one: seen[f"castray_connection_state{{state={one}}}"] for one in State}

    assert states == {one: float(one is state) for one in State}
    assert seen["castray_connected"] == (state is State.CONNECTED)
    assert seen["castray_next_retry_timestamp_seconds"] == 2_060.0
    assert seen["castray_cluster_nodes{state=alive}"] == 3

    never = replace(CALM, nodes_alive=None, nodes_dead=None, last_connected=None)
    seen = _samples(Metrics(), never)
    assert math.isnan(seen["castray_cluster_nodes{state=alive}"])
    assert seen["castray_last_connected_timestamp_seconds"] == 0.0


def test_warning_that_stands_is_one() -> None:
    """The others are zero; a code that is not known beforehand is shown all the same."""
    seen = _samples(Metrics(), replace(CALM, warnings=[("needs_operator", "error"), ("x", "y")]))

    assert seen["castray_warnings{code=needs_operator,severity=error}"] == 1
    assert seen["castray_warnings{code=ledger_damaged,severity=warning}"] == 0
    assert seen["castray_warnings{code=x,severity=y}"] == 1
