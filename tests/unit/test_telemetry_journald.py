"""The journal's own protocol, to a socket that plays the journal."""

import io
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from castrayd.core.states import State
from castrayd.telemetry import logs
from castrayd.telemetry.journald import (
    STACK,
    Journal,
    entry,
    field_name,
    is_journal,
    message_id,
)
from castrayd.telemetry.lines import LineWriter
from castrayd.telemetry.logs import LogFormat, LogLevel, choose_format, configure
from tests.support.readers import FakeJournal, fields_of

PAST_TIME_S = 5.0  # what none of these may come near to, on a machine that is busy


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    """A journal that reads when it is told to."""
    played = FakeJournal(tmp_path / "socket")
    yield played
    played.leave()


@pytest.fixture
def writer(journal: FakeJournal) -> "LineWriter[bytes]":
    """A writer to that journal."""
    return _writer(journal)


def _writer(journal: FakeJournal, patience_s: float = 5.0) -> "LineWriter[bytes]":
    """Say how many lines are missing, once they can be told."""
    return LineWriter(Journal(journal.path, patience_s), lambda count: _line(f"missing {count}"))


def _line(message: str, level: str = "info", **keys: object) -> bytes:
    return entry({"level": level, "message": message, **keys})


def _fields(message: str, **keys: Any) -> dict[str, bytes]:
    return dict(fields_of(_line(message, **keys)))


# --- what an entry is ---


def test_every_key_is_a_field() -> None:
    """Text as it is, numbers and switches as JSON has them; what is not known is not there."""
    keys: dict[str, Any] = {
        "event.name": "castray.connection.attempt",
        "castray.attempt.number": 3,
        "castray.phase.tcp_s": 0.25,
        "castray.state.to": State.CONNECTED,
        "error.retryable": True,
        "odd": {"a": [1, "\N{SNOWMAN}"]},
        "error.type": None,
    }
    assert _fields("failed=\N{SNOWMAN}", level="warning", **keys) == {
        "MESSAGE": "failed=\N{SNOWMAN}".encode(),
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"castrayd",
        "MESSAGE_ID": message_id("castray.connection.attempt").encode(),
        "CASTRAY_LEVEL": b"warning",
        "CASTRAY_EVENT_NAME": b"castray.connection.attempt",
        "CASTRAY_ATTEMPT_NUMBER": b"3",
        "CASTRAY_PHASE_TCP_S": b"0.25",
        "CASTRAY_STATE_TO": b"connected",
        "CASTRAY_ERROR_RETRYABLE": b"true",
        "CASTRAY_ODD": rb'{"a": [1, "\u2603"]}',
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("castray.attempt.id", "CASTRAY_ATTEMPT_ID"),
        ("error.type", "CASTRAY_ERROR_TYPE"),
        ("event.name", "CASTRAY_EVENT_NAME"),
        ("castrayd", "CASTRAY_CASTRAYD"),
        ("_boot_id", "CASTRAY__BOOT_ID"),
        ("9 l\N{LATIN SMALL LETTER U WITH DIAERESIS}ves", "CASTRAY_9_L_VES"),
        ("a" * 100, "CASTRAY_" + "A" * 56),
    ],
)
def test_name_of_a_field(key: str, name: str) -> None:
    """All have our prefix, so none is the journal's own or begins with what it refuses."""
    assert field_name(key) == name


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_no_text_can_make_a_field_of_its_own(key: str, value: str) -> None:
    """Whatever somebody says, line ends and lone surrogates too, stays the value of its field."""
    data, own = value.encode(errors="backslashreplace"), field_name(f"x{key}")
    expected = [
        ("MESSAGE", data),
        ("PRIORITY", b"6"),
        ("SYSLOG_IDENTIFIER", b"castrayd"),
        ("CASTRAY_LEVEL", b"info"),
        (own, data),
    ]
    found = fields_of(entry({"level": "info", "message": value, f"x{key}": value}))
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3"), ("critical", b"2")],
)
def test_priority_is_the_level(level: str, priority: bytes) -> None:
    """`journalctl -p warning` finds what is worth a look."""
    assert _fields("x", level=level)["PRIORITY"] == priority


def test_message_ids_never_change() -> None:
    """Who has written one into a filter or a catalogue must find it in every version."""
    assert message_id("castray.connection.attempt") == "293ab4f5d20f53569bc8781646f1310d"
    assert message_id("castray.state.changed") == "1840d654770452459cfd376d90d3cae2"
    assert re.fullmatch("[0-9a-f]{32}", message_id("any other"))
    assert "MESSAGE_ID" not in _fields("a line that is no event")


def test_stack_is_seen_with_the_message() -> None:
    """Who reads the journal sees the message alone; the stack has a field besides."""
    fields = _fields("a bug", **{STACK: "Traceback\n  odd"})
    assert fields["MESSAGE"] == b"a bug\nTraceback\n  odd"
    assert fields["CASTRAY_EXCEPTION_STACKTRACE"] == b"Traceback\n  odd"


# --- how it gets there ---


def test_large_entry_comes_as_a_sealed_file(
    journal: FakeJournal, writer: "LineWriter[bytes]"
) -> None:
    """What no datagram holds is handed over whole, and what follows it is a datagram again."""
    before = len(os.listdir("/proc/self/fd"))
    text = "x\n" * 500_000
    writer.write(_line("large", text=text))
    writer.write(_line("small"))

    assert journal.read()["CASTRAY_TEXT"] == text.encode()
    assert (journal.read()["MESSAGE"], journal.files) == (b"small", 1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", [True, False], ids=["no-socket", "nobody-serves-it"])
def test_journal_that_is_gone_costs_lines_alone(
    journal: FakeJournal, writer: "LineWriter[bytes]", path: bool
) -> None:
    """What is lost meanwhile is counted, and told first when the journal is back."""
    writer.write(_line("before"))
    assert journal.read()["MESSAGE"] == b"before"
    journal.leave(path=path)
    for text in ("small", "small", "x" * 500_000):
        writer.write(_line(text))
    writer.flush(5.0)
    journal.path.unlink(missing_ok=True)
    journal.listen()
    writer.write(_line("after"))

    assert [journal.read()["MESSAGE"] for _ in range(2)] == [b"missing 3", b"after"]


def test_journal_that_reads_nothing_costs_lines_alone(journal: FakeJournal) -> None:
    """The thread waits a little for room, for each line; nobody else waits, and all is counted."""
    writer = _writer(journal, 0.001)
    began = time.monotonic()
    for number in range(300):
        writer.write(_line(f"{number}", text="x" * 20_000))
    assert time.monotonic() - began < PAST_TIME_S
    writer.flush(30.0)
    read = [int(fields["MESSAGE"]) for fields in journal.drain()]
    assert read == list(range(len(read)))
    writer.write(_line("after"))

    assert journal.read()["MESSAGE"] == f"missing {300 - len(read)}".encode()
    assert journal.read()["MESSAGE"] == b"after"


def test_burst_is_taken_as_fast_as_the_journal_reads(journal: FakeJournal) -> None:
    """The kernel's queue holds few datagrams; a journal that takes its time loses none."""
    writer = _writer(journal, 30.0)
    for number in range(300):
        writer.write(_line(f"{number}", text="x" * 20_000))
    time.sleep(0.05)
    assert [int(journal.read()["MESSAGE"]) for _ in range(300)] == list(range(300))


# --- when it is chosen ---


@pytest.fixture
def stream() -> Iterator[tuple[TextIO, dict[str, str]]]:
    """A stream, and the environment in which systemd would have handed it to us."""
    with open(os.devnull, "w") as file:
        found = os.fstat(file.fileno())
        yield file, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}


def test_chosen_where_the_stream_is_the_journal(
    monkeypatch: pytest.MonkeyPatch, journal: FakeJournal, stream: tuple[TextIO, dict[str, str]]
) -> None:
    """By itself for that very stream alone; a wish needs no stream."""
    monkeypatch.setattr(logs, "is_journal", partial(is_journal, path=journal.path))
    there, environ = stream
    with open("/dev/zero") as other:
        assert choose_format("auto", there, environ) is LogFormat.JOURNALD
        assert choose_format("auto", other, environ) is LogFormat.JSON
    assert choose_format("auto", io.StringIO(), environ) is LogFormat.JSON
    assert choose_format("auto", None, environ) is LogFormat.JSON
    assert choose_format("auto", there, {}) is LogFormat.JSON
    assert choose_format("auto", there, {"JOURNAL_STREAM": "odd"}) is LogFormat.JSON
    assert choose_format("json", there, environ) is LogFormat.JSON
    assert choose_format("journald", None, {}) is LogFormat.JOURNALD


def test_not_chosen_where_the_journal_is_out_of_reach(
    journal: FakeJournal, stream: tuple[TextIO, dict[str, str]]
) -> None:
    """In a root of its own a service has the stream and no socket: JSON lines are better."""
    journal.leave()
    assert not is_journal(*stream, path=journal.path)


def test_loggers_write_to_it(monkeypatch: pytest.MonkeyPatch, journal: FakeJournal) -> None:
    """What is bound goes into every entry, and the stream gets nothing."""
    monkeypatch.setattr(logs, "Journal", partial(Journal, journal.path))
    before, stream = structlog.get_config(), io.StringIO()
    try:
        now = "2026-01-02T03:04:05.678901Z"
        level = LogLevel("info")
        configure(LogFormat.JOURNALD, level, lambda: now, {"process.pid": 7}, stream)
        log: Any = structlog.get_logger("castrayd.test")
        log.debug("hidden")
        log.error("h\udcff:6379", exc_info=ValueError("odd"), **{"error.type": "internal"})
    finally:
        structlog.configure(**before)

    assert journal.read() == {
        "MESSAGE": b"h\\udcff:6379\nValueError: odd",
        "PRIORITY": b"3",
        "SYSLOG_IDENTIFIER": b"castrayd",
        "CASTRAY_TIMESTAMP": now.encode(),
        "CASTRAY_LEVEL": b"error",
        "CASTRAY_LOG_LOGGER": b"castrayd.test",
        "CASTRAY_PROCESS_PID": b"7",
        "CASTRAY_ERROR_TYPE": b"internal",
        "CASTRAY_EXCEPTION_TYPE": b"ValueError",
        "CASTRAY_EXCEPTION_STACKTRACE": b"ValueError: odd",
    }
    assert stream.getvalue() == ""
