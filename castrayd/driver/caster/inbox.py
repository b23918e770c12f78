"""A casting node's inbox: bounded, acknowledged, in SQLite, so that a killed actor loses nothing.

Messages are taken in the order in which they come, each sender's id once. What finds no room is
refused and counted; what is in stays until a reader acknowledges it. Bodies are JSON, and nobody
here looks into them. One process at a time has it, see `turn`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from datetime import datetime, timezone
from typing import Any

__all__ = ("WAITING_READERS", "Inbox")

WAITING_READERS = 16
"""Who would wait beside so many is answered at once, and may ask again."""
_READ_CHARACTERS = 4 * 1024 * 1024
"""At most so much goes out in one read; far less than a frame of the wire takes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, sender TEXT, at TEXT, body TEXT);
DROP TABLE IF EXISTS seen;
CREATE TABLE IF NOT EXISTS taken (
    n INTEGER PRIMARY KEY AUTOINCREMENT, sender TEXT, id TEXT, digest BLOB, UNIQUE (sender, id));
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
"""`seen` was of an earlier form, which knew ids alone."""


class Inbox:
    """One per casting node; for use from any thread. Raises sqlite3.Error for a bad disk."""

    def __init__(self, folder: str, capacity: int, window: int) -> None:
        """Open or make it; so many ids, its `window`, are known, to take none of them twice."""
        self._capacity = capacity
        self._window = window
        self._changed = threading.Condition()
        self._readers = 0
        self._db = sqlite3.connect(
            os.path.join(folder, "inbox.sqlite"), isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        (self._count,) = self._db.execute("SELECT COUNT(*) FROM messages").fetchone()

    def accept(self, messages: list[tuple[str, str, str]]) -> list[str]:
        """Take messages, each an id, a sender and a body as JSON, in their order.

        Returns for each `delivered` (also where it was here before), `inbox_full`, or `id_reused`
        where its sender has given the id to another message. When this returns they outlive this
        process; against a loss of power they are not synced.
        """
        with self._changed:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                outcomes = self._accept_all(messages)
                self._forget()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._count += outcomes.count("stored")
            self._changed.notify_all()
        return ["delivered" if outcome == "stored" else outcome for outcome in outcomes]

    def _accept_all(self, messages: list[tuple[str, str, str]]) -> list[str]:
        room = self._capacity - self._count
        outcomes = []
        for message in messages:
            outcomes.append(self._accept(message, room))
            room -= outcomes[-1] == "stored"
        refused = sum(outcome not in {"stored", "delivered"} for outcome in outcomes)
        if refused:
            self._add("refused", refused)
        return outcomes

    def _accept(self, message: tuple[str, str, str], room: int) -> str:
        id_, sender, body = message
        digest = hashlib.sha256(body.encode()).digest()
        find = "SELECT digest FROM taken WHERE sender = ? AND id = ?"
        known = self._db.execute(find, (sender, id_)).fetchone()
        if known:
            return "delivered" if known[0] == digest else "id_reused"
        if room < 1:
            return "inbox_full"
        note = "INSERT INTO taken (sender, id, digest) VALUES (?, ?, ?)"
        self._db.execute(note, (sender, id_, digest))
        put = "INSERT INTO messages (id, sender, at, body) VALUES (?, ?, ?, ?)"
        self._db.execute(put, (id_, sender, _now(), body))
        return "stored"

    def _forget(self) -> None:
        old = "DELETE FROM taken WHERE n <= (SELECT MAX(n) FROM taken) - ?"
        self._db.execute(old, (self._window,))

    def refuse(self) -> None:
        """Count a message that is not even offered."""
        with self._changed:
            self._add("refused", 1)

    def read(
        self, since: int, limit: int, *, acknowledge: bool, wait_s: float
    ) -> list[dict[str, Any]]:
        """Return up to `limit` messages after `since`, waiting for a first one up to `wait_s`.

        With `acknowledge` those up to `since` are done with, and make room. Where too many wait
        already this one does not, and may find nothing sooner.
        """
        until = time.monotonic() + wait_s
        with self._changed:
            if acknowledge:
                done = self._db.execute("DELETE FROM messages WHERE seq <= ?", (since,))
                self._count -= done.rowcount
            found = self._after(since, limit)
            if found or self._readers >= WAITING_READERS:
                return found
            self._readers += 1
            try:
                while not found and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                    found = self._after(since, limit)
            finally:
                self._readers -= 1
        return found

    def _after(self, since: int, limit: int) -> list[dict[str, Any]]:
        """Read on until it is enough for one answer, though at least one."""
        find = "SELECT seq, id, sender, at, body FROM messages WHERE seq > ? ORDER BY seq LIMIT ?"
        found: list[dict[str, Any]] = []
        size = 0
        for seq, id_, sender, at, body in self._db.execute(find, (since, limit)):
            size += len(body)
            if found and size > _READ_CHARACTERS:
                break
            found.append({"seq": seq, "id": id_, "from": sender, "at": at, "body": body})
        return found

    def facts(self) -> dict[str, Any]:
        """Return how full it is: waiting, capacity, refused since it was made, the last `seq`."""
        with self._changed:
            last = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
            row = self._db.execute(last).fetchone()
            return {
                "waiting": self._count,
                "capacity": self._capacity,
                "refused": int(self._get("refused") or 0),
                "last_seq": row[0] if row else 0,
            }

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
