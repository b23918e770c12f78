"""What real readers make of the log: journald by field, rsyslog by key."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from castrayd.telemetry.journald import message_id
from tests.support.daemon import STOP_S, Daemon, running_daemon
from tests.support.peers import refused
from tests.support.processes import kill, until
from tests.support.readers import PrivateJournal, private_journal, rsyslog

pytestmark = pytest.mark.lab

REFUSED = "CASTRAY_ERROR_TYPE=tcp_refused"
ATTEMPT = "castray.connection.attempt"


@pytest.fixture(scope="module")
def journal() -> Iterator[PrivateJournal]:
    """A real journald, shared by this module: each daemon is told apart by its pid."""
    with private_journal() as running:
        yield running


def _found(journal: PrivateJournal, daemon: Daemon, *matches: str) -> list[dict[str, Any]]:
    """Wait for entries of a daemon that fit; returns them."""
    by = (f"CASTRAY_PROCESS_PID={daemon.pid}", *matches)
    until(lambda: journal.find(*by), 10.0, f"entries with {matches}")
    return journal.find(*by)


async def test_journal_finds_a_fault_by_its_field(journal: PrivateJournal) -> None:
    """Forced: each key is a field, the event has its MESSAGE_ID, and stderr says nothing."""
    async with (
        refused() as address,
        running_daemon("--log-format=journald", address=address, launch=False) as daemon,
    ):
        daemon.launch(*journal.inside)
        await daemon.answers()
        attempt = f"MESSAGE_ID={message_id(ATTEMPT)}"
        entry = _found(journal, daemon, REFUSED, attempt)[0]
        (event, *_) = await daemon.events(ATTEMPT)
        until(lambda: _found(journal, daemon, "PRIORITY=6"), 5.0, "lines at info")
        assert daemon.log_text() == ""

    expected = {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "castrayd",
        "CASTRAY_SERVICE_NAME": "castrayd",
        "CASTRAY_EVENT_NAME": ATTEMPT,
        "CASTRAY_EVENT_SEQUENCE": str(event["seq"]),
        "CASTRAY_EVENT_OUTCOME": "failure",
        "CASTRAY_ATTEMPT_ID": event["id"],
        "CASTRAY_ATTEMPT_NUMBER": "1",
        "CASTRAY_PHASE_FAILED": "tcp",
        "CASTRAY_PHASE_TCP_S": str(event["phases"]["tcp"]),
        "CASTRAY_ERROR_TYPE": "tcp_refused",
        "CASTRAY_SERVER_ADDRESS": address.partition(":")[0],
        "CASTRAY_SERVER_PORT": address.partition(":")[2],
        "_PID": str(daemon.process.pid),
        "_TRANSPORT": "journal",
    }
    assert expected == {name: entry.get(name) for name in expected}
    assert re.match("attempt 1 to .* failed in tcp: tcp_refused: ", entry["MESSAGE"])


async def test_journal_is_chosen_where_stderr_is_it(journal: PrivateJournal) -> None:
    """As systemd starts a unit: fields, not a stream of text."""
    async with (
        refused() as address,
        running_daemon("--log-format=auto", address=address, launch=False) as daemon,
    ):
        daemon.launch(*journal.streaming)
        await daemon.answers()
        assert _found(journal, daemon, REFUSED)[0]["_TRANSPORT"] == "journal"


async def test_journal_takes_what_no_datagram_holds(journal: PrivateJournal) -> None:
    """A line of half a megabyte, with line ends in it, is found whole."""
    code = (
        "from castrayd.telemetry.journald import Journal, entry\n"
        "text = 'a\\n' * 250_000\n"
        "line = {'level': 'info', 'message': 'large', 'castray.test.text': text}\n"
        "Journal().write(entry(line))"
    )
    journal.run(code)
    until(lambda: journal.find("MESSAGE=large"), 10.0, "the entry")
    assert journal.find("MESSAGE=large")[0]["CASTRAY_TEST_TEXT"] == "a\n" * 250_000


async def test_stopped_journal_delays_nothing() -> None:
    """Its queue is soon full: the daemon starts, works, and ends as ever."""
    with private_journal() as journal:
        kill(journal.pid, signal.SIGSTOP)
        async with (
            refused() as address,
            running_daemon("--log-format=journald", address=address, launch=False) as daemon,
        ):
            daemon.launch(*journal.inside)
            await daemon.answers()
            for _ in range(20):  # a line each, and more than the queue holds
                assert (await daemon.post("/api/reload"))[0] == 200
            await daemon.wait_status("a failure", lambda s: s["attempt"]["number"] > 1)
            began = time.monotonic()
            await daemon.stop()
            assert time.monotonic() - began < STOP_S / 2


def _count(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def _documents(path: Path) -> list[dict[str, Any]]:
    """Return what rsyslog wrote, without what it adds of its own."""
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in d.items() if key != "metadata"} for d in documents]


async def test_rsyslog_takes_json_lines() -> None:
    """Every line is parsed, none changed; filters on the keys find the fault."""
    async with (
        refused() as address,
        running_daemon(address=address) as daemon,
    ):
        with rsyslog(daemon.log_path, '$!error.type == "tcp_refused"') as folder:
            await daemon.wait_log("a refusal", lambda line: line.get("error.type") == "tcp_refused")
            await daemon.stop()
            lines = daemon.logs()
            until(lambda: _count(folder / "parsed") == len(lines), 10.0, "all lines parsed")
            parsed, found = (_documents(folder / name) for name in ("parsed", "found"))
            assert not (folder / "refused").exists()

    assert parsed == lines
    assert found == [line for line in lines if line.get("error.type") == "tcp_refused"]
    (first, *_) = [line for line in found if line.get("event.name") == ATTEMPT]
    place = {"server.address": "127.0.0.1", "server.port": int(address.partition(":")[2])}
    expected = {"castray.phase.failed": "tcp", "level": "warning", **place}
    assert expected == {key: first[key] for key in expected}
    assert isinstance(first["castray.attempt.duration_s"], float)
