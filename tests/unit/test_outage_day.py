"""A day of outage in virtual time: what the log says of it, and what is kept of it."""

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from castrayd import history as histories
from castrayd import ledger as ledgers
from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.machine import step
from castrayd.core.policy import Policy
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Outcome, State
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.history import History
from castrayd.ledger import Ledger
from castrayd.supervisor.documents import AttemptDocument
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import RING_ITEMS, EventLog
from castrayd.telemetry.facts import AttemptEnded, ConnectionLost, StateChanged
from castrayd.telemetry.logs import LogFormat, LogLevel, configure
from castrayd.telemetry.publisher import Publisher, Sink

HOUR_S = 3600.0
EXITED = Fault.of(ErrorType.SESSION_EXITED, Phase.ATTACHED, "exit 1", code="1")
CAUSES = (
    (0.0, ErrorType.TCP_REFUSED, Phase.TCP, 0.001),
    (3.0, ErrorType.TCP_TIMEOUT, Phase.TCP, 2.0),
    (3.5, ErrorType.TCP_REFUSED, Phase.TCP, 0.001),
    (8.0, ErrorType.DNS_FAILURE, Phase.RESOLVE, 0.01),
    (10.0, ErrorType.NOT_RAY, Phase.HEALTH, 0.02),  # an operator's: a minute from the first on
    (11.0, ErrorType.HOST_UNREACHABLE, Phase.TCP, 1.5),
    (23.0, ErrorType.NO_LOCAL_NODE, Phase.LOCAL_NODE, 10.0),
)
"""From which hour of the day on what is wrong, and how long an attempt then takes."""


class Day:
    """The core, its clock and its publisher; the world answers each command in no time."""

    def __init__(self, *sinks: Sink) -> None:
        self.now_s = 1_000.0
        self.text = io.StringIO()
        clock = Clock(lambda: self.now_s, lambda: 1_700_000_000 + self.now_s)
        self.writer = configure(LogFormat.JSON, LogLevel("info"), clock.now, {}, self.text)
        self.publisher = Publisher(EventLog("s", 1), clock, *sinks)
        self.attempts = 0
        self._clock = clock
        self._rng = random.Random(4)
        self._snapshot = Snapshot("r")
        self._pending: list[c.Command] = []
        self._lost_s: float | None = None

    def run(self, hours: float) -> None:
        """Attach, lose it, fail for so long, attach again."""
        self._take(e.Started(self.now_s))
        self._attempt(None)
        self.now_s += 100.0
        self._take(e.SessionExited(self.now_s, self._epoch(c.WatchSession), EXITED))
        self._take(e.SessionEnded(self.now_s, self._epoch(c.EndSession), 0.5))
        began_s = self.now_s
        while (passed_s := self.now_s - began_s) < hours * HOUR_S:
            due = [cause for cause in CAUSES if cause[0] <= passed_s / HOUR_S % 24]
            self._attempt(due[-1])
            self.now_s = next(o.until_s for o in self._pending if isinstance(o, c.WaitRetry))
            self._take(e.RetryDue(self.now_s, self._epoch(c.WaitRetry)))
        self._attempt(None)
        self.writer.flush(5.0)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.getvalue().splitlines()]

    def _epoch(self, kind: type[c.Command]) -> int:
        return next(order.epoch for order in self._pending if isinstance(order, kind))

    def _attempt(self, cause: tuple[float, ErrorType, Phase, float] | None) -> None:
        """Answer the attempt that the core has ordered."""
        ref = next(o.attempt for o in self._pending if isinstance(o, c.RunAttempt))
        epoch, self.attempts = self._epoch(c.RunAttempt), self.attempts + 1
        took_s = cause[3] if cause else 0.5
        self.now_s += took_s
        if cause is None:
            answer: e.Event = e.AttemptSucceeded(self.now_s, epoch)
        else:
            fault = Fault.of(cause[1], cause[2], "as it is now")
            jitter = self._rng.uniform(0.5, 1.0)
            answer = e.AttemptFailed(self.now_s, epoch, fault, jitter)
        error = None if cause is None else fault
        outcome = Outcome.SUCCESS if error is None else Outcome.FAILURE
        at = self._clock.at(self.now_s - took_s)
        document = AttemptDocument(
            ref.id, ref.number, ref.trigger, outcome, at, took_s, {}, error, "h:1", "config", ()
        )
        self._take(answer, document)

    def _take(self, event: e.Event, attempt: AttemptDocument | None = None) -> None:
        """Feed the core, and tell what the supervisor tells, in its order."""
        before = self._snapshot
        after, orders = step(before, event, Policy())
        self._snapshot, self._pending = after, [*orders, *self._pending][:10]
        if attempt is not None:
            self._tell(attempt)
        if before.attached_s is not None and after.attached_s is None:
            self.publisher.publish(ConnectionLost(self.now_s - before.attached_s, after.error))
            self._lost_s = self.now_s
        if before.state is not after.state:
            fact = StateChanged(before.state, after.state, "a day", after.reasons)
            self.publisher.publish(fact)

    def _tell(self, attempt: AttemptDocument) -> None:
        at_s = self._snapshot.retry_at_s
        retry_at = None if at_s is None else self._clock.at(at_s)
        retry_in_s = None if at_s is None else at_s - self.now_s
        outage_s = None if self._lost_s is None else self.now_s - self._lost_s
        self.publisher.publish(AttemptEnded(attempt, retry_at, retry_in_s, outage_s))


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    """It is set up once for the whole process: put it back."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_day_of_outage_is_told_in_few_lines() -> None:
    """The first failure, each change of class, each ten minutes, and the return."""
    day = Day()
    day.run(24.0)
    lines = day.lines()
    tried = [line for line in lines if line["event.name"] == AttemptEnded.NAME]
    failed = [line for line in tried if line["event.outcome"] == "failure"]

    assert 1_400 < day.attempts < 3_500
    assert 20 <= len(lines) <= 200
    classes = [line["error.type"] for line in failed]
    changes = [kind for n, kind in enumerate(classes) if n == 0 or kind != classes[n - 1]]
    assert changes == [cause[1] for cause in CAUSES]
    assert (failed[0]["level"], "log.suppressed" in failed[0]) == ("warning", False)
    assert sum(line.get("log.suppressed", 0) + 1 for line in failed) > day.attempts - 30
    assert [line["event.outcome"] for line in (tried[0], tried[-1])] == ["success"] * 2
    assert tried[-1]["castray.outage.duration_s"] == pytest.approx(24 * HOUR_S, abs=120)
    assert lines[-1]["castray.state.to"] == State.CONNECTED


def test_new_class_is_told_at_its_first_failure() -> None:
    """Within one wait of when the cause changed, so that the log says since when."""
    day = Day()
    day.run(24.0)
    failed = [line for line in day.lines() if line.get("event.outcome") == "failure"]
    for hour, kind, _, _ in CAUSES:
        since_s = [line["castray.outage.duration_s"] for line in failed]
        told = [s for s, line in zip(since_s, failed, strict=True) if line["error.type"] == kind]
        assert any(0 <= s - hour * HOUR_S <= 75.0 for s in told), kind


def test_history_of_days_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring and the ledger forget the oldest; what they keep is whole and in order."""
    monkeypatch.setattr(ledgers, "EVENTS_KEPT", 5_000)
    monkeypatch.setattr(histories, "WAITING", 100_000)  # two days pass here in a second
    ledger = Ledger(tmp_path / "l")
    history = History(ledger)
    day = Day(lambda item, _fact: history.keep(item))
    day.run(48.0)
    history.close(30.0)
    ring = [item["seq"] for item in day.publisher.events.since(0).items]
    kept = [json.loads(body)["seq"] for body in ledger.events(1_000_000)]
    ledger.close()

    last = day.publisher.events.last_seq
    assert last > 2 * RING_ITEMS
    assert ring == list(range(last - RING_ITEMS + 1, last + 1))
    assert 5_000 <= len(kept) < 5_000 + ledgers.PRUNE_EVERY * 2
    assert kept == list(range(last - len(kept) + 1, last + 1))
