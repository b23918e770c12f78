"""The alert rules by Prometheus's own evaluation: each with a host that fires and some that do not.

Host `a` has what the rule is for; the others have what is nearly that.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.readers import promtool

pytestmark = pytest.mark.lab

ALERTS = resources.files("castrayd") / "data" / "alerts.yaml"


@dataclass(frozen=True)
class Case:
    """A rule's test: the samples of every minute, as promtool writes them."""

    fires: str
    """When host `a` alone has the alert."""
    series: Mapping[str, str]
    quiet: str | None = None
    """When nobody has it yet, though the fault is there; None where a rule waits for nothing."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The alert's own, besides the instance."""


def _series(metric: str, hosts: Mapping[str, str], /, **labels: str) -> dict[str, str]:
    """Return one metric's samples by host."""
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return {f'{metric}{{instance="{host}"{more}}}': values for host, values in hosts.items()}


CASES = {
    "CastraydDown": Case(
        "6m", _series("up", {"a": "1x2 0x10", "b": "1x12", "restarted": "1x2 0x1 1x9"},
                      job="castrayd")
        | _series("up", {"another": "0x12"}, job="node"),
        quiet="4m", labels={"job": "castrayd"},
    ),
    "CastraydNotConnected": Case(
        "12m", _series("castray_connected", {"a": "1x5 0x20", "b": "1x25", "paused": "0x25",
                                             "degraded": "0x25", "back": "1x5 0x3 1x17"})
        | _series("castray_paused", {"a": "0x25", "b": "0x25", "paused": "1x25", "degraded": "0x25",
                                     "back": "0x25"})
        | _series("castray_connection_state", {"a": "0x25", "degraded": "1x25"}, state="degraded"),
        quiet="8m",
    ),
    "CastraydNeedsOperator": Case(
        "8m", _series("castray_warnings", {"a": "0x5 1x10", "b": "0x15", "mended": "0x5 1 0x9"},
                      code="needs_operator", severity="error")
        | _series("castray_warnings", {"odd": "1x15"}, code="setting_ignored", severity="warning"),
        quiet="6m", labels={"code": "needs_operator"},
    ),
    "CastraydFlapping": Case(  # between two scrapes: Prometheus extrapolates what it has seen
        "30m30s", _series("castray_disconnections_total", {"a": "7x5 8x5 9x25", "b": "7x35",
                                                           "thrice": "7x5 8x5 9x5 10x20"},
                          reason="control_plane_lost")
        | _series("castray_disconnections_total", {"a": "3x12 4x5 5x18", "b": "3x35",
                                                   "thrice": "3x35"}, reason="session_exited")
        | _series("castray_disconnections_total", {"asked": "0+1x35"}, reason="requested"),
    ),
    "CastraydDegraded": Case(
        "37m", _series("castray_connection_state", {"a": "0x5 1x40", "b": "0x45",
                                                    "between": "0x5 1x20 0 1x20"},
                       state="degraded")
        | _series("castray_connection_state", {"other": "1x45"}, state="connected"),
        quiet="33m", labels={"state": "degraded"},
    ),
    "CastraydRetriesNever": Case(
        "8m", _series("castray_connected", {"a": "0x10", "b": "0x10", "none": "0x10",
                                            "paused": "0x10", "connected": "1x10"})
        | _series("castray_paused", {"a": "0x10", "b": "0x10", "none": "0x10", "paused": "1x10",
                                     "connected": "0x10"})
        | _series("castray_next_retry_timestamp_seconds", {
            "a": "60x10", "b": "60+60x10", "none": "0x10", "paused": "60x10", "connected": "60x10",
        }),
        quiet="5m",
    ),
    "CastraydSlowAttach": Case(
        "60m", {
            series: values
            for bound, slow, quick in (("10.0", "0x70", "0+1x70"), ("30.0", "0x70", "0+1x70"),
                                       ("60.0", "0+1x70", "0+1x70"), ("+Inf", "0+1x70", "0+1x70"))
            for outcome, hosts in (("success", {"a": slow, "b": quick}),
                                   ("failure", {"failing": slow}))
            for series, values in _series("castray_connection_attempt_duration_seconds_bucket",
                                          hosts, outcome=outcome, le=bound).items()
        },
    ),
    "CastraydBug": Case(
        "30m", _series("castray_events_total", {"a": "0x10 1x80", "b": "0x90", "before": "3x90"},
                       name="castray.internal")
        | _series("castray_events_total", {"other": "0+1x90"}, name="castray.state.changed"),
        quiet="9m", labels={"name": "castray.internal"},
    ),
}  # fmt: skip


def _rules() -> dict[str, dict[str, Any]]:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return {rule["alert"]: rule for rule in rules}


def _alert(rule: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Return the alert as it is to fire, with its texts filled in."""
    known = {**case.labels, "instance": "a"}
    texts = {
        key: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: known[found[1]], text)
        for key, text in rule["annotations"].items()
    }
    return {"exp_labels": {**known, **rule["labels"]}, "exp_annotations": texts}


def test_rules_are_well_formed() -> None:
    """As promtool sees them, and each has its case here."""
    with resources.as_file(ALERTS) as path:
        promtool("check", "rules", str(path))
    assert list(_rules()) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_alert_fires_when_it_should_and_not_else(name: str, tmp_path: Path) -> None:
    """For the host that has the fault, after the rule's own wait, and for no other."""
    rule, case = _rules()[name], CASES[name]
    times = [(case.fires, [_alert(rule, case)])] + ([(case.quiet, [])] if case.quiet else [])
    series = [{"series": one, "values": values} for one, values in case.series.items()]
    expected = [{"eval_time": at, "alertname": name, "exp_alerts": all_} for at, all_ in times]
    with resources.as_file(ALERTS) as path:
        document = {
            "rule_files": [str(path)],
            "evaluation_interval": "30s",
            "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
        }
        file = tmp_path / "tests.yaml"
        file.write_text(json.dumps(document))
        promtool("test", "rules", str(file))
