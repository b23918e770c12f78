"""What a log call costs: `python -m tests.bench.log` prints it beside one json.dumps and a write.

The line is that of a failed attempt, as the publisher makes it. What the writing thread does is in
it: it shares the interpreter with whoever logs.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO
from unittest import mock

import structlog

from castrayd.core.states import Desired, Trigger
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.telemetry import logs
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.logs import LogFormat, LogLevel, configure

__all__ = ("KEYS", "log_ratio")

REACH: Final = 4.0
CALLS: Final = 2_000
ROUNDS: Final = 9

_FAULT: Final = Fault.of(ErrorType.TCP_REFUSED, Phase.TCP, "10.30.2.11:6379: connection refused")
BOUND: Final = {
    "service.name": "castrayd",
    "service.version": "0.1.0",
    "service.instance.id": "f07915681b574ebcbab79a57dc6d97be",
    "host.name": "host",
    "process.pid": 4242,
}
KEYS: Final[dict[str, Any]] = {
    "event.name": "castray.connection.attempt",
    "event.sequence": 1_000_017,
    "event.outcome": "failure",
    "castray.attempt.id": "8f16cab4-4",
    "castray.attempt.number": 4,
    "castray.attempt.trigger": Trigger.BACKOFF,
    "castray.attempt.duration_s": 0.001583190998644568,
    "castray.desired": Desired.UP,
    "castray.phase.resolve_s": 0.000037981,
    "castray.phase.tcp_s": 0.000430166,
    "server.address": "10.30.2.11",
    "server.port": 6379,
    "castray.address.source": "env:RAY_ADDRESS",
    "castray.phase.failed": _FAULT.phase,
    "error.type": _FAULT.type,
    "error.message": _FAULT.message,
    "error.retry": _FAULT.retry,
    "error.hint": _FAULT.hint,
    "castray.backoff.delay_s": 2.09290149497974,
    "castray.backoff.next_at": "2026-11-24T13:48:24.855388Z",
    "castray.backoff.ceiling_s": 4.0,
}
MESSAGE: Final = f"attempt 4 to 10.30.2.11:6379 (config) failed in tcp: {_FAULT.message}"


class _Sent:
    """A journal that takes each entry by a write, as a datagram is one."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()

    def write(self, line: bytes) -> None:
        os.write(self._descriptor, line)

    def flush(self) -> None:
        """Do nothing, as the journal's."""


@contextmanager
def _logging(form: LogFormat, stream: TextIO) -> Iterator[Callable[[], None]]:
    """Yield what makes a round of calls, and waits until all are written."""
    before = structlog.get_config()
    with mock.patch.object(logs, "Journal", return_value=_Sent(stream)):
        writer = configure(form, LogLevel("info"), Clock().now, BOUND, stream)
    log: Any = structlog.get_logger("castrayd")

    def calls() -> None:
        for _ in range(CALLS):
            log.warning(MESSAGE, **KEYS)
        writer.flush(30.0)

    try:
        yield calls
    finally:
        structlog.configure(**before)


def _bare(stream: TextIO) -> None:
    """The same keys, encoded and written."""
    line = {"timestamp": Clock().now(), "level": "warning", "message": MESSAGE, **BOUND, **KEYS}
    write = stream.write
    for _ in range(CALLS):
        write(json.dumps(line) + "\n")  # line-buffered: written at once


def _took_us(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) / CALLS * 1e6


def log_ratio(form: LogFormat) -> tuple[float, float]:
    """Measure both, by turns; returns the medians of a log call and of its measure, in us."""
    with tempfile.TemporaryDirectory(prefix="cd-log-") as folder:
        path = Path(folder, "log")
        bare_path = path.with_suffix(".bare")
        with path.open("w", buffering=1) as ours, bare_path.open("w", buffering=1) as bare:
            with _logging(form, ours) as calls:
                pairs = [(_took_us(calls), _took_us(lambda: _bare(bare))) for _ in range(ROUNDS)]
            assert path.stat().st_size > CALLS * ROUNDS * 500, "lines were dropped"
    ours_us, bare_us = (statistics.median(times) for times in zip(*pairs, strict=True))
    return ours_us, bare_us


def main() -> int:
    """Print both formats; 1 where one misses its measure."""
    missed = 0
    for form in (LogFormat.JSON, LogFormat.JOURNALD):
        ours, bare = log_ratio(form)
        good = ours / bare <= REACH
        missed += not good
        sign = " " if good else "!"
        print(f"{f'log call, {form} / json.dumps and write':<44} {ours:10.2f} {bare:10.2f} us   "
              f"{ours / bare:8.2f} x {sign}<= {REACH:.1f} x")  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
