"""A casting node's inbox: whose message it is, how full it is, who reads it."""

import json
import socket
import sqlite3
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from castrayd.driver.caster.actor import GROUPS
from castrayd.driver.caster.inbox import WAITING_READERS, Inbox
from castrayd.driver.caster.udp import UdpPort
from tests.support.processes import until


def _inbox(folder: Path, capacity: int = 10) -> Inbox:
    return Inbox(str(folder), capacity, 100)


def _bodies(inbox: Inbox, since: int = 0) -> list[str]:
    return [one["body"] for one in inbox.read(since, 1000, acknowledge=False, wait_s=0)]


def test_id_is_its_senders(tmp_path: Path) -> None:
    """Two senders may use one id; one sender's second message under it is refused, and counted."""
    inbox = _inbox(tmp_path)

    assert inbox.accept([("1", "a", '"from a"'), ("1", "b", '"from b"')]) == ["delivered"] * 2
    assert inbox.accept([("1", "a", '"from a"'), ("1", "a", '"other"')]) == [
        "delivered",
        "id_reused",
    ]
    assert _bodies(inbox) == ['"from a"', '"from b"']
    assert inbox.facts()["refused"] == 1


def test_file_of_an_earlier_form_is_gone_on_with(tmp_path: Path) -> None:
    """Its messages are kept; the ids that it knew were of no sender, and are forgotten."""
    with sqlite3.connect(tmp_path / "inbox.sqlite") as old:
        old.executescript("""
            CREATE TABLE messages (
                seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, sender TEXT, at TEXT, body TEXT);
            CREATE TABLE seen (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE);
            INSERT INTO messages (id, sender, at, body) VALUES ('1', 'a', 'then', '"old"');
            INSERT INTO seen (id) VALUES ('1');
        """)
    old.close()
    inbox = _inbox(tmp_path)

    assert inbox.accept([("1", "b", '"new"')]) == ["delivered"]
    assert _bodies(inbox) == ['"old"', '"new"']
    assert inbox.facts()["waiting"] == 2


def test_how_full_it_is_is_known_without_counting(tmp_path: Path) -> None:
    """Through refusals, acknowledgements and a new start; no message costs a look at all."""
    inbox = _inbox(tmp_path, capacity=3)
    statements: list[str] = []
    inbox._db.set_trace_callback(statements.append)
    rows = [(str(number), "a", "0") for number in range(5)]

    assert inbox.accept(rows) == ["delivered"] * 3 + ["inbox_full"] * 2
    assert inbox.facts()["waiting"] == 3
    inbox.read(2, 1, acknowledge=True, wait_s=0)
    inbox.read(2, 1, acknowledge=True, wait_s=0)
    assert inbox.facts()["waiting"] == 1
    assert inbox.accept(rows[3:]) == ["delivered"] * 2
    assert not [one for one in statements if "COUNT" in one]
    assert _inbox(tmp_path, capacity=3).accept([("9", "a", "0")]) == ["inbox_full"]


def test_failed_acceptance_changes_nothing(tmp_path: Path) -> None:
    """A disk that takes no more leaves neither messages, nor a count of them, nor a transaction."""
    inbox = _inbox(tmp_path)
    (pages,) = inbox._db.execute("PRAGMA page_count").fetchone()
    inbox._db.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(sqlite3.Error):
        inbox.accept([(str(number), "a", "0" * 10_000) for number in range(5)])
    inbox._db.execute("PRAGMA max_page_count=100000")

    assert inbox.facts()["waiting"] == 0
    assert inbox.accept([("1", "a", "0")]) == ["delivered"]


def test_one_read_takes_as_much_as_one_answer_holds(tmp_path: Path) -> None:
    """What does not go out is not read either, and comes next."""
    inbox = _inbox(tmp_path, capacity=500)
    text = json.dumps("x" * 65_000)
    inbox.accept([(str(number), "a", text) for number in range(400)])
    tracemalloc.start()
    try:
        found = inbox.read(0, 1000, acknowledge=False, wait_s=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 60 < len(found) < 70
    assert peak < 8 * 2**20
    assert inbox.read(found[-1]["seq"], 1, acknowledge=False, wait_s=0)[0]["id"] == str(len(found))


def test_readers_that_wait_hold_up_no_other(tmp_path: Path) -> None:
    """As many as may wait are told what comes; one more is answered at once."""
    inbox = _inbox(tmp_path)
    told: list[Any] = []

    def wait() -> None:
        told.append(inbox.read(0, 10, acknowledge=False, wait_s=30))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(WAITING_READERS)]
    for thread in threads:
        thread.start()
    until(lambda: inbox._readers == WAITING_READERS, 10, "all wait")
    began = time.monotonic()
    assert inbox.read(0, 10, acknowledge=True, wait_s=30) == []
    assert time.monotonic() - began < 5

    inbox.accept([("1", "a", "0")])
    for thread in threads:
        thread.join(10)
    assert [len(found) for found in told] == [1] * WAITING_READERS
    assert GROUPS["read"] > WAITING_READERS


@pytest.mark.parametrize("depth", [101, 985, 20_000])
def test_datagram_that_nests_too_deeply_is_refused(tmp_path: Path, depth: int) -> None:
    """It is counted, and what came before and after it can be read."""
    inbox = _inbox(tmp_path)
    port = UdpPort("127.0.0.1", 0, inbox)
    deep = {"in": json.loads("[" * 99 + "]" * 99)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        for data in (json.dumps(deep).encode(), b"[" * depth + b"]" * depth, b"[[[ no list"):
            program.sendto(data, ("127.0.0.1", port.port))
    until(lambda: inbox.facts()["waiting"] == 2, 10, "two are in")

    assert [json.loads(body) for body in _bodies(inbox)] == [deep, "[[[ no list"]
    assert inbox.facts()["refused"] == 1
