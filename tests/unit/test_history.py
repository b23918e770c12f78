"""The history: written behind everybody's back, and read after a restart."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from castrayd import history as histories
from castrayd.core.states import State
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.history import History
from castrayd.ledger import Ledger
from castrayd.telemetry.facts import AttemptEnded, StateChanged

REFUSED = Fault.of(ErrorType.TCP_REFUSED, Phase.TCP, "refused")


def _item(seq: int, name: str = "a") -> dict[str, Any]:
    return {"seq": seq, "at": "2026-01-01T00:00:00Z", "name": name, "error": REFUSED}


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    """Whole and in order, as JSON; attempts by themselves, the newest first."""
    ledger = Ledger(tmp_path / "l")
    history = History(ledger)
    for seq in range(1, 1200):
        history.keep(_item(seq, AttemptEnded.NAME if seq % 2 else "a"))
    history.close(5.0)
    ledger.close()

    ledger = Ledger(tmp_path / "l")
    again = History(ledger)
    events = again.events()
    assert [event["seq"] for event in events] == list(range(200, 1200))
    assert events[-1]["error"]["type"] == "tcp_refused"
    assert [one["seq"] for one in again.attempts(3)] == [1199, 1197, 1195]
    again.close(5.0)
    ledger.close()


def test_last_connection_outlives_the_events_of_an_outage(tmp_path: Path) -> None:
    """When it became so, or was no more: told by no other change, and gone with no event."""
    ledger = Ledger(tmp_path / "l")
    history, seen = History(ledger), [ledger.connected_at()]
    for at, source, target in (
        ("T1", State.DISCOVERING, State.CONNECTED),
        ("T2", State.CONNECTED, State.DEGRADED),
        ("T3", State.DEGRADED, State.DISCONNECTED),
    ):
        history.keep({"seq": 1, "at": at, "name": StateChanged.NAME, "from": source, "to": target})
        history.close(5.0)
        seen.append(ledger.connected_at())
        history = History(ledger)
    history.close(5.0)
    ledger.close()

    assert seen == [None, "T1", "T2", "T2"]
    again = Ledger(tmp_path / "l")
    assert again.connected_at() == "T2"
    again.close()


def test_what_is_no_text_ends_no_history(tmp_path: Path) -> None:
    """A path with bytes that are no UTF-8, in a message: shown as well as can be."""
    ledger = Ledger(tmp_path / "l")
    history = History(ledger)
    history.keep({**_item(1), "error": "/etc/c\udcff.toml"})
    history.keep(_item(2))
    history.close(5.0)

    first, second = history.events()
    assert (first["error"], second["seq"]) == ("/etc/c?.toml", 2)
    assert history.dropped == 0
    ledger.close()


def test_disk_that_hangs_makes_nobody_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may wait are dropped; the end is not held up."""
    monkeypatch.setattr(histories, "WAITING", 100)
    ledger, free = Ledger(tmp_path / "l"), threading.Event()
    monkeypatch.setattr(ledger, "store_events", lambda _rows: free.wait(10))
    history = History(ledger)
    began_s = time.monotonic()
    for seq in range(100_000):
        history.keep(_item(seq))
    history.close(0.2)
    assert time.monotonic() - began_s < 3.0
    free.set()


def test_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again only when it had gone on in between."""
    ledger = Ledger(tmp_path / "l")
    outcomes = [True, True, False, True]

    def store(_rows: object) -> None:
        if outcomes.pop(0):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(ledger, "store_events", store)
    monkeypatch.setattr(histories, "BATCH", 1)
    with capture_logs() as said:
        history = History(ledger)
        for seq in range(4):
            history.keep(_item(seq))
        history.close(5.0)
    told = "the history of events cannot be written: database or disk is full"
    assert [line["event"] for line in said] == [told] * 2
