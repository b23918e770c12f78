"""The publisher: every fact once in the stream and once in the log, under one number."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from castrayd.core.states import Desired, Outcome, State, Trigger
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.supervisor.documents import AttemptDocument
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import EventLog, Item
from castrayd.telemetry.facts import (
    FACTS,
    AttemptEnded,
    CasterLost,
    CasterReady,
    CastFinished,
    ConfigReloaded,
    ConnectionLost,
    DesiredChanged,
    Fact,
    InternalFault,
    NodesChanged,
    SessionOutput,
    StateChanged,
    TransferFinished,
    TransferProgress,
    TransferStarted,
)
from castrayd.telemetry.logs import LogFormat, LogLevel, configure
from castrayd.telemetry.publisher import Publisher

REFUSED = Fault.of(ErrorType.TCP_REFUSED, Phase.TCP, "head:6379: refused", code="ECONNREFUSED")
NOT_RAY = Fault.of(ErrorType.NOT_RAY, Phase.HEALTH, "HTTP answers there")
LOST = Fault.of(ErrorType.CONTROL_PLANE_LOST, Phase.ATTACHED, "the GCS is gone")


class Told:
    """A publisher, with what it has put into the stream and into the log."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._stream = io.StringIO()
        self._level = LogLevel("debug")
        clock = Clock(lambda: self.now_s, lambda: 1_700_000_000 + self.now_s)
        self._writer = configure(LogFormat.JSON, self._level, clock.now, {}, self._stream)
        self.publisher = Publisher(EventLog("s", 1_000), clock)

    def lines(self) -> list[dict[str, Any]]:
        self._writer.flush(5.0)
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line

    def items(self) -> tuple[Item, ...]:
        return self.publisher.events.since(999).items


@pytest.fixture
def told() -> Iterator[Told]:
    """What is told; structlog, set up once for the whole process, is put back."""
    before = structlog.get_config()
    yield Told()
    structlog.configure(**before)


def _attempt(
    outcome: Outcome, error: Fault | None = None, number: int = 3, source: str | None = "config"
) -> AttemptDocument:
    address = "head:6379" if source else None
    return AttemptDocument(
        f"r-{number}", number, Trigger.BACKOFF, outcome, "2026-01-01T00:00:00Z", 0.25,
        {"resolve": 0.001, "tcp": 0.02}, error, address, source, (),
    )  # fmt: skip


def _failure(error: Fault = REFUSED, number: int = 3) -> AttemptDocument:
    return _attempt(Outcome.FAILURE, error, number)


TOLD: tuple[Fact, ...] = (
    StateChanged(State.CONNECTED, State.DEGRADED, "x"),
    AttemptEnded(_failure(), "t", 1.0),
    DesiredChanged(Desired.PAUSED, "uid 0", "upgrade"),
    ConnectionLost(12.0, LOST),
    ConfigReloaded(["ray.address"], reconnect=True),
    NodesChanged(["a"], ["b"], 3, 1),
    CasterReady("demo", "n1", "10.0.0.1"),
    CasterLost("demo", "no living node is such a place"),
    TransferStarted("t1", "a", ["b"]),
    TransferProgress("t1", "running", 1, 2, 1.0, 1.0),
    TransferFinished("t1", "partial", 2, "ab" * 32, {"b": "done", "c": "disk_full"}),
    CastFinished("m1", "demo", 1, 1, 0.01, {"a": "delivered", "b": "unreachable"}),
    SessionOutput("s1", "stderr", "hello"),
    InternalFault(REFUSED),
)


def test_every_fact_is_one_event_and_one_line_of_one_number(told: Told) -> None:
    """The line names the event and its `seq`, whatever its level; both tell the same moment."""
    assert {type(fact) for fact in TOLD} == set(FACTS)
    for fact in (*TOLD, *TOLD):
        told.publisher.publish(fact)
        told.now_s += 1.0

    items = told.items()
    assert [fact.NAME for fact in (*TOLD, *TOLD)] == [item["name"] for item in items]
    assert list(range(1_000, 1_000 + len(items))) == [item["seq"] for item in items]
    assert [(item["seq"], item["name"], item["at"]) for item in items] == [
        (line["event.sequence"], line["event.name"], line["timestamp"]) for line in told.lines()
    ]


def test_success_tells_address_source_and_phases(told: Told) -> None:
    """A success is at info; it has no error, and each phase its milliseconds."""
    attempt = replace(_attempt(Outcome.SUCCESS), seen={"session_name": "session_1", "socket": "s"})
    told.publisher.publish(AttemptEnded(attempt, None, None))

    expected = {
        "level": "info",
        "message": "attached to head:6379 (config) in 0.250 s (ms: resolve 1 tcp 20)",
        "event.outcome": "success",
        "castray.phase.tcp_s": 0.02,
        "castray.attempt.duration_s": 0.25,
        "ray.session.name": "session_1",
        "server.address": "head",
        "server.port": 6379,
    }
    assert expected.items() <= told.line().items()
    assert not [key for key in told.line() if key.startswith(("error.", "castray.backoff."))]
    assert told.items()[0]["error"] is None


def test_failure_tells_class_phase_target_and_next_retry(told: Told) -> None:
    """The first failure is at warning, and its line needs no other to be understood."""
    told.publisher.publish(AttemptEnded(_failure(), "2026-01-01T00:00:09Z", 1.5, ceiling_s=2.0))

    expected = {
        "level": "warning",
        "message": "attempt 3 to head:6379 (config) failed in tcp: "
        "tcp_refused: head:6379: refused (next in 1.5 s)",
        "event.outcome": "failure",
        "castray.attempt.number": 3,
        "castray.phase.failed": "tcp",
        "error.type": "tcp_refused",
        "error.retry": "transient",
        "error.hint": REFUSED.hint,
        "error.code": "ECONNREFUSED",
        "castray.backoff.delay_s": 1.5,
        "castray.backoff.ceiling_s": 2.0,
        "castray.backoff.next_at": "2026-01-01T00:00:09Z",
        "server.address": "head",
        "server.port": 6379,
        "castray.address.source": "config",
        "castray.desired": "up",
    }
    assert expected.items() <= told.line().items()
    (item,) = told.items()
    assert (item["error"], item["next_retry_at"]) == (REFUSED, "2026-01-01T00:00:09Z")


def test_fault_that_needs_a_person_tells_the_hint(told: Told) -> None:
    """Whoever can mend it reads how in the line itself; what time mends needs no hint there."""
    told.publisher.publish(AttemptEnded(_failure(NOT_RAY), "t", 60.0))
    told.publisher.publish(AttemptEnded(_failure(REFUSED), "t", 60.0))

    operator, transient = told.lines()
    assert operator["message"].endswith(f"- {NOT_RAY.hint}")
    assert (operator["error.retry"], operator["level"]) == ("operator", "error")
    assert transient["level"] == "warning"
    assert REFUSED.hint not in transient["message"]


def test_failure_without_an_address_or_a_retry_says_so(told: Told) -> None:
    """Nothing configured, nothing found, nothing planned: no key holds a null."""
    fault = Fault.of(ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER, "nothing")
    told.publisher.publish(AttemptEnded(_attempt(Outcome.FAILURE, fault, source=None), None, None))

    line = told.line()
    assert line["message"].endswith("to no address failed in discover: no_cluster_found: nothing")
    assert not {"server.address", "castray.backoff.next_at", "error.code"} & line.keys()


def test_cancelled_attempt_is_a_debug_line(told: Told) -> None:
    """Somebody wanted it so: no failure, no class."""
    told.publisher.publish(AttemptEnded(_attempt(Outcome.CANCELLED), desired=Desired.PAUSED))

    line = told.line()
    assert (line["level"], line["event.outcome"]) == ("debug", "unknown")
    assert line["castray.desired"] == "paused"
    assert line["message"] == "attempt 3 cancelled after 0.250 s"
    assert "error.type" not in line
    assert told.items()[0]["outcome"] == "cancelled"


def test_long_run_of_failures_thins_out_and_counts(told: Told) -> None:
    """The 1st, 2nd, 4th and 8th are shown, with `log.suppressed`; the stream has every one."""
    for number in range(1, 11):
        told.publisher.publish(AttemptEnded(_failure(number=number), "t", 1.0))

    shown = [line for line in told.lines() if line["level"] == "warning"]
    counts = {line["castray.attempt.number"]: line.get("log.suppressed") for line in shown}
    assert counts == {1: None, 2: None, 4: 1, 8: 3}
    assert {line["level"] for line in told.lines()} == {"warning", "debug"}
    assert told.lines()[7]["message"].endswith("[3 like it not shown]")
    assert len(told.items()) == len(told.lines()) == 10


def test_change_of_class_ten_minutes_and_success_are_news(told: Told) -> None:
    """Each is shown although the run is long; after a success the next failure is the first."""
    for fault in (*[REFUSED] * 5, NOT_RAY, NOT_RAY):
        told.publisher.publish(AttemptEnded(_failure(fault), "t", 1.0))
    told.now_s += 601.0
    for attempt in (_failure(NOT_RAY), _attempt(Outcome.SUCCESS), _failure(NOT_RAY)):
        told.publisher.publish(AttemptEnded(attempt, "t", 1.0))

    told_of = [(line["level"], line.get("log.suppressed")) for line in told.lines()[5:]]
    assert told_of == [
        ("error", 1), ("debug", None), ("warning", 1), ("info", None), ("error", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "level"),
    [
        (State.DISCONNECTED, State.DISCOVERING, "debug"),
        (State.DISCOVERING, State.DISCONNECTED, "debug"),
        (State.DISCOVERING, State.CONNECTED, "info"),
        (State.CONNECTED, State.DEGRADED, "warning"),
        (State.DEGRADED, State.CONNECTED, "info"),
        (State.DEGRADED, State.DISCONNECTED, "info"),
    ],
)
def test_state_change_has_the_level_of_its_news(
    told: Told, source: State, target: State, level: str
) -> None:
    """Degraded warns, attempts speak for themselves; the line has the first of the reasons."""
    told.publisher.publish(StateChanged(source, target, "why", [LOST, REFUSED], Desired.PAUSED))

    line, message = told.line(), f"{source} -> {target} (why): {LOST.type}: {LOST.message}"
    assert (line["level"], line["message"]) == (level, message)
    assert line["castray.desired"] == "paused"
    expected = {"from": source, "to": target, "trigger": "why", "reasons": [LOST, REFUSED]}
    assert expected.items() <= told.items()[0].items()


def test_lost_connection_tells_why(told: Told) -> None:
    """A connection that was ended on purpose is no warning, and has no class."""
    told.publisher.publish(ConnectionLost(12.345, LOST))
    told.publisher.publish(ConnectionLost(12.345, None))

    lost, ended = told.lines()
    assert (lost["level"], lost["error.type"]) == ("warning", "control_plane_lost")
    assert lost["message"] == "connection ended after 12.3 s: control_plane_lost: the GCS is gone"
    assert (ended["level"], ended["message"]) == ("info", "connection ended after 12.3 s")
    assert "error.type" not in ended
    assert ended["castray.session.duration_s"] == 12.345
    assert [LOST, None] == [item["error"] for item in told.items()]


def _fail_with(token: str) -> None:
    raise ZeroDivisionError(len(token))


def test_internal_carries_the_stack_and_no_values(told: Told) -> None:
    """A bug can be found; what a variable held when it struck, a token maybe, is not told."""
    token = "".join(["kept ", "to ", "ourselves"])  # noqa: FLY002  the source is in the stack
    try:
        _fail_with(token)
    except ZeroDivisionError:
        told.publisher.publish(InternalFault(Fault.of(ErrorType.INTERNAL, Phase.INIT, "a bug")))

    line, (item,) = told.line(), told.items()
    assert (line["level"], line["error.type"]) == ("error", "internal")
    assert line["exception.type"] == "ZeroDivisionError"
    assert "_fail_with" in line["exception.stacktrace"]
    assert line["exception.stacktrace"].endswith("ZeroDivisionError: 17")
    assert token not in str(line)
    assert item.keys() == {"seq", "at", "name", "error"}
