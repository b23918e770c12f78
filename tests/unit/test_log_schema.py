"""The schema that every test's lines are checked against refuses what it is there to refuse."""

from typing import Any

import jsonschema_rs
import pytest

from tests.support.log_schema import SCHEMA, check_lines

LINE = {
    "timestamp": "2026-01-02T03:04:05.678901Z",
    "level": "warning",
    "message": "attempt 1 failed",
    "log.logger": "castrayd",
    "service.name": "castrayd",
    "service.version": "1",
    "service.instance.id": "0" * 32,
    "host.name": "h",
    "process.pid": 7,
}
FAILED = {
    **LINE,
    "event.name": "castray.connection.attempt",
    "event.sequence": 3,
    "event.outcome": "failure",
    "castray.attempt.id": "r-1",
    "castray.attempt.number": 1,
    "castray.attempt.trigger": "start",
    "castray.attempt.duration_s": 0.25,
    "castray.phase.tcp_s": 0.02,
    "castray.phase.failed": "tcp",
    "castray.desired": "up",
    "error.type": "tcp_refused",
    "error.message": "refused",
    "error.retry": "transient",
    "error.hint": "start it",
}


def test_schema_is_one() -> None:
    """It is a valid schema itself, and takes lines as they should be."""
    assert jsonschema_rs.meta.is_valid(dict(SCHEMA))
    check_lines([LINE, FAILED])


@pytest.mark.parametrize(
    "change",
    [
        {"castray.attempt.colour": "red"},
        {"reason": "undotted"},
        {"timestamp": "2026-01-02T03:04:05+01:00"},
        {"level": "warn"},
        {"server.address": None},
        {"event.name": "castray.unheard.of"},
        {"event.outcome": "success"},
        {"event.outcome": "cancelled"},
        {"error.type": "tcp_odd"},
        {"castray.phase.tcp_s": "0.02"},
        {"castray.phase.failed": "later"},
        {"castray.attempt.duration_s": -1.0},
        {"castray.desired": "down"},
        {"castray.backoff.delay_s": 1.0, "castray.backoff.next_at": LINE["timestamp"]},
        {"exception.type": "ValueError"},
        {"ray.session.name": None},
    ],
)
def test_line_that_is_wrong_in_one_key_is_refused(change: dict[str, Any]) -> None:
    """An unknown key, a null, another type, a word of no closed set, an error beside a success."""
    with pytest.raises(AssertionError, match="schema refuses"):
        check_lines([{**FAILED, **change}])


@pytest.mark.parametrize("key", sorted(FAILED.keys() - {"castray.phase.tcp_s"}))
def test_line_that_lacks_a_key_is_refused(key: str) -> None:
    """What a filter goes by is never left out."""
    with pytest.raises(AssertionError, match="schema refuses"):
        check_lines([{name: value for name, value in FAILED.items() if name != key}])
