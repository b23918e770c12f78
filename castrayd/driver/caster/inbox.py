"""A casting node's inbox: bounded, acknowledged, in SQLite, so that a killed actor loses nothing.

Messages are taken in the order in which they come, each id once. What finds no room is refused
and counted; what is in stays until a reader acknowledges it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from datetime import datetime, timezone
from typing import Any

__all__ = ("Inbox",)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, sender TEXT, at TEXT, body TEXT);
CREATE TABLE IF NOT EXISTS seen (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


class Inbox:
    """One per casting node; for use from any thread. Raises sqlite3.Error for a bad disk."""

    def __init__(self, folder: str, capacity: int, window: int) -> None:
        """Open or make it; so many ids, its `window`, are known, to take none of them twice."""
        self._capacity = capacity
        self._window = window
        self._changed = threading.Condition()
        self._db = sqlite3.connect(
            os.path.join(folder, "inbox.sqlite"), isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def accept(self, messages: list[tuple[str, str, str]]) -> list[str]:
        """Take messages, each an id, a sender and a body as JSON, in their order.

        Returns for each `delivered` (also where it was here before), or `inbox_full`. When this
        returns they outlive this process; against a loss of power they are not synced.
        """
        with self._changed:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                room = self._capacity - self._count()
                outcomes = []
                for message in messages:
                    outcome = self._accept(message, room)
                    room -= outcome == "stored"
                    outcomes.append("delivered" if outcome == "stored" else outcome)
                self._forget()
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._changed.notify_all()
        return outcomes

    def _accept(self, message: tuple[str, str, str], room: int) -> str:
        known = "SELECT 1 FROM seen WHERE id = ?"
        if self._db.execute(known, message[:1]).fetchone():
            return "delivered"
        if room < 1:
            self._add("refused", 1)
            return "inbox_full"
        self._db.execute("INSERT INTO seen (id) VALUES (?)", message[:1])
        id_, sender, body = message
        put = "INSERT INTO messages (id, sender, at, body) VALUES (?, ?, ?, ?)"
        self._db.execute(put, (id_, sender, _now(), body))
        return "stored"

    def _forget(self) -> None:
        old = "DELETE FROM seen WHERE n <= (SELECT MAX(n) FROM seen) - ?"
        self._db.execute(old, (self._window,))

    def read(self, since: int, limit: int, *, acknowledge: bool, wait_s: float) -> dict[str, Any]:
        """Return up to `limit` messages after `since`, waiting for a first one up to `wait_s`.

        With `acknowledge` those up to `since` are done with, and make room.
        """
        until = time.monotonic() + wait_s
        with self._changed:
            if acknowledge:
                self._db.execute("DELETE FROM messages WHERE seq <= ?", (since,))
            rows = self._after(since, limit)
            while not rows and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
                rows = self._after(since, limit)
        return {"messages": [_message(row) for row in rows]}

    def _after(self, since: int, limit: int) -> list[tuple[Any, ...]]:
        find = "SELECT seq, id, sender, at, body FROM messages WHERE seq > ? ORDER BY seq LIMIT ?"
        return self._db.execute(find, (since, limit)).fetchall()

    def facts(self) -> dict[str, Any]:
        """Return how full it is: waiting, capacity, refused since it was made, the last `seq`."""
        with self._changed:
            last = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
            row = self._db.execute(last).fetchone()
            return {
                "waiting": self._count(),
                "capacity": self._capacity,
                "refused": int(self._get("refused") or 0),
                "last_seq": row[0] if row else 0,
            }

    def _count(self) -> int:
        (count,) = self._db.execute("SELECT COUNT(*) FROM messages").fetchone()
        return int(count)

    def get(self, key: str) -> Any:
        """Return a fact that the node keeps beside its messages; None where it has none."""
        with self._changed:
            return self._get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a fact."""
        with self._changed:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def _get(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _add(self, key: str, amount: int) -> None:
        value = int(self._get(key) or 0) + amount
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(row: tuple[Any, ...]) -> dict[str, Any]:
    seq, id_, sender, at, body = row
    return {"seq": seq, "id": id_, "from": sender, "at": at, "body": json.loads(body)}
