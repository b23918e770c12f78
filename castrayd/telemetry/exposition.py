"""The metrics as Prometheus reads them: names, help and types, written by prometheus_client.

Asked by the control API. The library is loaded at the first scrape and not before: the daemon's
start would pay for it.
"""

import platform
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import castrayd
from castrayd.core.states import State
from castrayd.telemetry.metrics import BUCKETS_S, Histogram, Metrics, Standing

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ("CONTENT_TYPE", "exposition", "load_prometheus")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

WARNINGS: Final = (
    ("needs_operator", "error"), ("setting_ignored", "warning"), ("ledger_damaged", "warning"),
)  # fmt: skip
"""Codes and severities of all standing warnings that there are."""


def load_prometheus() -> None:
    """Import the library; from a thread, for it takes a while."""
    import prometheus_client  # noqa: F401, PLC0415


def exposition(metrics: Metrics, standing: Standing) -> bytes:
    """Write everything down, in the text format of Prometheus."""
    from prometheus_client import generate_latest  # noqa: PLC0415  see above

    return generate_latest(_Collected(metrics, standing))


class _Collected:
    """What the library asks for: families of samples."""

    def __init__(self, metrics: Metrics, standing: Standing) -> None:
        self._metrics = metrics
        self._standing = standing

    def collect(self) -> Iterator["Metric"]:
        yield from _gauges(self._standing)
        yield from _counters(self._metrics, self._standing)
        yield from _histograms(self._metrics)


def _gauges(now: Standing) -> Iterator["Metric"]:
    yield _gauge(
        "castray_connection_state", "1 for the state of the attachment, 0 for the others.",
        {(state.value,): state is now.state for state in State}, "state",
    )  # fmt: skip
    connected = now.state is State.CONNECTED
    for name, text, value in (
        ("castray_connected", "Whether the attachment is connected and all checks are good.",
         connected),
        ("castray_paused", "Whether an operator wants no attachment.", now.paused),
        ("castray_start_timestamp_seconds", "When the daemon was started.", now.started),
        ("castray_next_retry_timestamp_seconds", "When the next attempt begins; 0: none is due.",
         now.next_retry),
        ("castray_last_connected_timestamp_seconds", "When it was connected last; 0: never.",
         now.last_connected),
        ("castray_last_contact_timestamp_seconds", "When the GCS answered last; 0: never.",
         now.last_contact),
    ):  # fmt: skip
        yield _gauge(name, text, {(): value or 0})
    nodes = {("alive",): now.nodes_alive, ("dead",): now.nodes_dead}
    yield _gauge("castray_cluster_nodes", "Nodes of the cluster; NaN without an attachment.",
                 nodes, "state")  # fmt: skip
    casters = {("wanted",): now.casters_wanted, ("ready",): now.casters_ready}
    yield _gauge("castray_casting_nodes", "Casting nodes of this daemon.", casters, "state")
    yield _gauge("castray_transfers_active", "Transfers that have not ended.",
                 {(): now.transfers_active})  # fmt: skip
    standing = {key: key in now.warnings for key in (*WARNINGS, *now.warnings)}
    yield _gauge("castray_warnings", "Whether a warning stands.", standing, "code", "severity")
    build = {(castrayd.__version__, platform.python_version()): 1}
    yield _gauge("castray_build_info", "Always 1; versions are labels.", build, "version", "python")


def _counters(metrics: Metrics, now: Standing) -> Iterator["Metric"]:
    yield _counter("castray_connection_attempts", "Attempts to attach, by how they ended.",
                   metrics.attempts, "outcome", "error_type")  # fmt: skip
    for name, text, label, counts in (
        ("castray_disconnections", "Attachments that ended, by why.", "reason",
         metrics.disconnections),
        ("castray_events", "Events, by name.", "name", metrics.events),
        ("castray_config_reloads", "Reloads of the settings.", "outcome", metrics.reloads),
        ("castray_receipts", "Receipts of messages, by outcome.", "outcome", metrics.receipts),
        ("castray_transfers", "Transfers that ended, by how.", "state", metrics.transfers),
    ):  # fmt: skip
        yield _counter(name, text, {(key,): count for key, count in counts.items()}, label)
    yield _counter("castray_events_dropped", "Events that the history could not take.",
                   {(): now.events_dropped})  # fmt: skip
    yield _counter("castray_transfer_verified_bytes", "Bytes of files verified at recipients.",
                   {(): metrics.transfer_bytes})  # fmt: skip


def _histograms(metrics: Metrics) -> Iterator["Metric"]:
    yield _histogram("castray_connection_attempt_duration_seconds",
                     "How long attempts took, without the waits between them.",
                     metrics.attempt_s, "outcome")  # fmt: skip
    yield _histogram("castray_connection_phase_duration_seconds",
                     "How long the phases of attempts took, those that failed too.",
                     metrics.phase_s, "phase")  # fmt: skip


def _gauge(name: str, text: str, values: Mapping[Any, Any], *labels: str) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), float("nan") if value is None else float(value))
    return family


def _counter(name: str, text: str, values: Mapping[Any, int], *labels: str) -> "Metric":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _histogram(name: str, text: str, values: Mapping[str, Histogram], label: str) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415

    family = HistogramMetricFamily(name, text, labels=[label])
    bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
    for key, one in values.items():
        buckets = list(zip(bounds, accumulate(one.counts), strict=True))
        family.add_metric([key], buckets, one.sum_s)
    return family
