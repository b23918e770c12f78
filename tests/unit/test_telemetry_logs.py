"""The log: lines for machines and people, a level that moves, a writer that none waits for."""

import fcntl
import io
import json
import os
import time
from collections.abc import Iterator
from typing import Any, TextIO

import pytest
import structlog

from castrayd.telemetry import lines, logs
from castrayd.telemetry.lines import LineWriter, Stream
from castrayd.telemetry.logs import LogFormat, LogLevel, choose_format, configure

NOW = "2026-01-02T03:04:05.678901Z"
PAST_TIME_S = 2.0  # what none of these may come near to, on a machine that is busy


class _Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _structlog_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is set up once for the whole process: put it back."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class _Log:
    """A log on a stream that can be read back."""

    def __init__(self, form: LogFormat, stream: io.StringIO | None = None) -> None:
        self.level = LogLevel("info")
        self._stream = stream or io.StringIO()
        self._writer = configure(form, self.level, lambda: NOW, {"process.pid": 7}, self._stream)
        self.log: Any = structlog.get_logger("castrayd.test")

    def text(self) -> str:
        self._writer.flush(5.0)
        return self._stream.getvalue()

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


def _json() -> _Log:
    return _Log(LogFormat.JSON)


def _console(stream: io.StringIO | None = None) -> _Log:
    return _Log(LogFormat.CONSOLE, stream)


def test_json_line_has_the_keys() -> None:
    """Time, level and message come first, then what is the same in every line, then the fields."""
    told = _json()
    told.log.warning("failed\r\n\N{SNOWMAN}", **{"event.name": "x", "castray.phase.tcp_s": 0.25})

    expected = {
        "timestamp": NOW,
        "level": "warning",
        "message": "failed\r\n\N{SNOWMAN}",
        "log.logger": "castrayd.test",
        "process.pid": 7,
        "event.name": "x",
        "castray.phase.tcp_s": 0.25,
    }
    assert [list(expected.items())] == [list(line.items()) for line in told.documents()]
    assert "\N{SNOWMAN}" in told.text()  # letters beyond ASCII stay letters


def test_level_moves_while_it_runs() -> None:
    """A logger that exists already obeys the level of the moment; a name that is none raises."""
    told = _json()
    told.log.debug("hidden")
    told.level.set("debug")
    told.log.debug("shown")
    told.level.set("error")
    told.log.warning("hidden again")
    told.log.error("shown again")
    with pytest.raises(KeyError):
        told.level.set("loud")

    assert ["shown", "shown again"] == [line["message"] for line in told.documents()]
    assert told.level.get() == "error"


@pytest.mark.parametrize("given", ["exception", "true"])
def test_error_carries_the_stack(given: str) -> None:
    """`exc_info`, an exception or True, becomes a class with its module, and a stack."""
    told = _json()
    try:
        raise json.JSONDecodeError("a bug", "", 0)
    except json.JSONDecodeError as error:
        told.log.error("a bug was met", exc_info=error if given == "exception" else True)

    (line,) = told.documents()
    assert line["exception.type"] == "json.decoder.JSONDecodeError"
    assert "test_error_carries_the_stack" in line["exception.stacktrace"]
    assert "JSONDecodeError: a bug" in line["exception.stacktrace"]
    assert "exc_info" not in line


@pytest.mark.parametrize("given", [None, True])
def test_no_exception_is_no_key(given: bool | None) -> None:
    """A loop that is in trouble may have none to tell; a null would be a key like any other."""
    told = _json()
    told.log.error("trouble", exc_info=given)

    (line,) = told.documents()
    assert list(line)[:4] == ["timestamp", "level", "message", "log.logger"]
    assert list(line)[4:] == ["process.pid"]


@pytest.mark.parametrize("method", ["exception", "warn", "informational"])
def test_unknown_method_fails_loudly(method: str) -> None:
    """A level that is misspelt is found by the first test that comes by, not lost."""
    told = _json()
    with pytest.raises((AttributeError, KeyError), match=method):
        getattr(told.log, method)("x")

    assert told.text() == ""


@pytest.mark.parametrize("form", [LogFormat.CONSOLE, LogFormat.JSON])
def test_surrogates_do_not_raise(form: LogFormat) -> None:
    """Bytes of the environment that are no text are logged as something."""
    told = _Log(form)
    told.log.info("h\udcff:6379", **{"server.address": "h\udcff:6379", "other": object()})

    assert ":6379" in told.text()
    if form is LogFormat.JSON:
        assert told.documents()[0]["server.address"] == "h?:6379"


def test_console_is_coloured_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours on a terminal; none elsewhere, and none where NO_COLOR asks for none."""
    (coloured := _console(_Terminal())).log.error("x")
    (plain := _console()).log.error("x")
    monkeypatch.setenv("NO_COLOR", "1")
    (asked := _console(_Terminal())).log.error("x")

    assert coloured.text() == "03:04:05.678 \x1b[31merror   \x1b[0m x\n"
    assert plain.text() == asked.text() == "03:04:05.678 error    x\n"


def test_console_replaces_control_characters() -> None:
    """What others have said cannot move the cursor, nor make a line of its own."""
    told = _console()
    told.log.info("a\x1b[2Jb\nc\rd\x07e\x7ff\x9bg\th")

    text = told.text().replace("\N{REPLACEMENT CHARACTER}", "?")
    assert text.endswith(" a?[2Jb?c?d?e?f?g?h\n")


def test_console_shows_time_level_message_and_exception() -> None:
    """A person gets what can be read at a glance, without the fields; a stack below its line."""
    told = _console()
    told.log.error("a bug was met", exc_info=ValueError("odd"), **{"event.sequence": 9})

    assert told.text() == "03:04:05.678 error    a bug was met\nValueError: odd\n"


@pytest.mark.parametrize(
    ("wanted", "stream", "form"),
    [
        ("auto", _Terminal(), LogFormat.CONSOLE),
        ("auto", io.StringIO(), LogFormat.JSON),
        ("auto", None, LogFormat.JSON),
        ("console", io.StringIO(), LogFormat.CONSOLE),
        ("json", _Terminal(), LogFormat.JSON),
    ],
)
def test_format_is_a_wish_or_fits(wanted: str, stream: TextIO | None, form: LogFormat) -> None:
    """`auto` looks at the stream; a wish wins."""
    assert choose_format(wanted, stream, {}) is form


def test_dropped_lines_are_told_in_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of what was dropped is a line like any other: JSON where the rest is."""
    made: list[Any] = []
    monkeypatch.setattr(logs, "LineWriter", lambda _out, tell: made.append(tell))
    configure(LogFormat.JSON, LogLevel("info"), lambda: NOW, {}, io.StringIO())

    line = json.loads(made[0](3))
    assert (line["level"], line["timestamp"]) == ("warning", NOW)
    assert "3 log lines were dropped" in line["message"]


# --- the writer ---


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """Both ends of a small pipe."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with open(writer, "w", buffering=1) as sink, open(reader) as source:
        yield source, sink


def test_pipe_that_nobody_reads_costs_lines_alone(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[TextIO, TextIO]
) -> None:
    """Nothing waits for a reader; what was dropped is counted, and told to one that comes."""
    monkeypatch.setattr(lines, "LINES", 20)
    source, sink = pipe
    writer = LineWriter(Stream(sink), lambda count: f"dropped {count}")
    began = time.monotonic()
    for number in range(500):
        writer.write(f"{number} {'x' * 995}")
    writer.flush(0.1)
    assert time.monotonic() - began < PAST_TIME_S
    read, dropped = [-1], 0
    while len(read) - 1 + dropped < 500:
        first, second = source.readline().split()
        dropped += int(second) if first == "dropped" else 0
        read += [int(first)] if first != "dropped" else []
    assert read == sorted(set(read))
    assert dropped > 400
    writer.write("after")
    writer.flush(5.0)
    assert source.readline() == "after\n"


def test_flush_returns_once_all_is_written() -> None:
    """With a reader it takes no longer than the writing, and nothing is missing after it."""
    stream, began = io.StringIO(), time.monotonic()
    writer = LineWriter(Stream(stream), str)
    for _ in range(100):
        writer.write("x")
    writer.flush(30.0)
    assert stream.getvalue() == "x\n" * 100
    assert time.monotonic() - began < PAST_TIME_S


@pytest.mark.parametrize("error", [OSError(28, "no space left"), ValueError("closed")])
def test_stream_that_fails_does_not_end_the_writer(error: Exception) -> None:
    """A full disk loses lines and cuts one; how many is told, and what is told stands apart."""

    class Failing(io.StringIO):
        def write(self, text: str) -> int:
            if text.strip() in {"lost", "1"}:
                super().write(text.strip()[:2])  # what there was room for
                raise error
            return super().write(text)

    stream = Failing()
    writer = LineWriter(Stream(stream), str)
    for line in ("kept", "lost", "lost with its note", "kept", "kept"):
        writer.write(line)
    writer.flush(5.0)
    assert stream.getvalue() == "kept\nlo1\n2\nkept\nkept\n"
