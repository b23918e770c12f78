"""The ledger: what must outlive the daemon, in SQLite (WAL).

Holds the daemon's lasting id, what is desired and by whose wish, the reach of the event numbers,
when it was connected last, the last events, and the records of casting. Calls block on the disk:
the daemon makes them from a thread, except while it starts. A damaged file is set aside and a new
one begun; one that is newer than this code is refused. A lock beside the file keeps two daemons
from sharing one identity.
"""

import errno
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from castrayd.core.states import Desired
from castrayd.errors import SettingsError, SettingsProblem
from castrayd.lockfile import hold
from castrayd.ownership import make_file

__all__ = ("Ledger", "Row", "Wish")

Row: TypeAlias = tuple[int, str, str, bytes]
"""An event: `seq`, `at`, `name`, and the whole of it as JSON."""

EVENTS_KEPT: Final = 20_000
OF_ONE_KEPT: Final = 5_000
"""Of each name: a chatty session must not push the attempts out."""
DAYS_KEPT: Final = 30
YOUNG: Final = 1_000
"""So many stay whatever their age: a clock that was wrong for a while must not take them all."""
PRUNE_EVERY: Final = 500
"""Rows that are written between two looks for what is too old, or too much."""
SEQ_BLOCK: Final = 1_000_000
"""Event numbers are reserved in blocks, so that none is used twice without a write each."""

_MIGRATIONS: Final = (
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, at TEXT, name TEXT, body BLOB NOT NULL)",
    "CREATE TABLE records (kind TEXT, key TEXT, body BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID",
)
"""What makes each version of the file out of the one before; never changed, only added to."""
PASSING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE, errno.EMFILE}
)
"""What hinders now and need not hinder later, unlike a folder that is not there or not ours."""
SCHEMA: Final = len(_MIGRATIONS)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants, who said so, and why."""

    desired: Desired = Desired.UP
    who: str = ""
    reason: str = ""


class Ledger:
    """One open ledger, held alone; for use from any thread.

    Raises `AlreadyRunningError` where another daemon holds it, and `SettingsError` where the
    folder cannot be written to or the file is newer than this code.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._unpruned = PRUNE_EVERY  # the first write prunes
        self.set_aside: Path | None = None
        """Where a damaged file was moved, when there was one."""
        with self._usable():
            self._lock = hold(path)
            try:
                self._db = self._open()
            except BaseException:
                os.close(self._lock)
                raise

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Tell of a disk that is full, or may not be written to, as the setting that it is."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            problem = SettingsProblem("daemon.state_dir", str(error))
            passing = not isinstance(error, OSError) or error.errno in PASSING
            raise SettingsError(str(self.path), (problem,), passing=passing) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # a full disk or a missing folder is no damage
            self.set_aside = self.path.with_name(f"{self.path.name}.damaged-{uuid.uuid4().hex[:8]}")
            self.path.rename(self.set_aside)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        make_file(self.path)
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            problem = SettingsProblem(
                "daemon.state_dir", f"written by a newer castrayd ({version})"
            )
            raise SettingsError(str(self.path), (problem,))
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        for number, step in enumerate(_MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN; {step}; PRAGMA user_version={number}; COMMIT")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)

    def close(self, timeout_s: float = -1) -> None:
        """Close the file, and let go of it; left to the end of the process where a disk hangs."""
        if self._turn.acquire(timeout=timeout_s):
            self._db.close()
            self._turn.release()
            os.close(self._lock)

    def daemon_id(self) -> str:
        """Return the lasting id of this daemon, made at the first start. Raises `SettingsError`."""
        with self._usable():
            return self._get("daemon_id") or self._put("daemon_id", uuid.uuid4().hex)

    def reserve_seq(self) -> int:
        """Reserve a block of event numbers; returns its first. Raises `SettingsError`."""
        with self._usable():
            (last,) = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()
            first = max(int(self._get("next_seq") or 1), int(last) + 1)
            self._put("next_seq", str(first + SEQ_BLOCK))
        return first

    def wish(self) -> Wish:
        """Return what is desired; up, until somebody says otherwise."""
        return Wish(
            Desired(self._get("desired") or Desired.UP),
            self._get("desired_by") or "",
            self._get("desired_why") or "",
        )

    def store_wish(self, wish: Wish) -> None:
        """Keep what is desired over restarts; durable when it returns."""
        facts = [
            ("desired", wish.desired.value),
            ("desired_by", wish.who),
            ("desired_why", wish.reason),
        ]
        with self._turn, self._db:  # commits, or rolls back
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_UPSERT, facts)

    def connected_at(self) -> str | None:
        """Return when the attachment was connected last, as far as that was noted."""
        return self._get("connected_at")

    def note_connected(self, at: str) -> None:
        """Keep when it was connected last: the events of a long outage push that one out."""
        with self._turn:
            self._put("connected_at", at)

    def store_events(self, rows: Sequence[Row]) -> None:
        """Keep events, in one transaction; what is too old, or too much, goes.

        Raises sqlite3.Error.
        """
        last = rows[-1][0]
        with self._turn, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)", rows)
            if last > int(self._get("next_seq") or 0) - SEQ_BLOCK // 2:
                self._put("next_seq", str(last + SEQ_BLOCK))
            self._unpruned += len(rows)
            if self._unpruned >= PRUNE_EVERY:
                self._unpruned = 0
                self._db.execute(_TOO_MANY_OF_ONE, (OF_ONE_KEPT,))
                self._db.execute(_TOO_MANY, (EVENTS_KEPT,))
                self._db.execute(_TOO_OLD, (rows[-1][1], f"-{DAYS_KEPT} days", YOUNG))

    def events(self, limit: int, name: str | None = None) -> list[bytes]:
        """Return the last events, of one name or of all, as JSON, the oldest first."""
        with self._turn:
            found = self._db.execute(_LAST, (name, name, limit)).fetchall()
        return [body for (body,) in reversed(found)]

    def records(self, kind: str) -> list[bytes]:
        """Return the bodies of all records of a kind, by key."""
        with self._turn:
            find = "SELECT body FROM records WHERE kind = ? ORDER BY key"
            return [body for (body,) in self._db.execute(find, (kind,))]

    def put_record(self, kind: str, key: str, body: bytes) -> None:
        """Keep a record in the place of one with the same key; durable when it returns."""
        with self._turn:
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, key, body))

    def delete_record(self, kind: str, key: str) -> None:
        """Forget a record; durable when it returns."""
        with self._turn:
            self._db.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))

    def _get(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _put(self, key: str, value: str) -> str:
        self._db.execute(_UPSERT, (key, value))
        return value


_UPSERT: Final = "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_LAST: Final = "SELECT body FROM events WHERE ? IS NULL OR name = ? ORDER BY seq DESC LIMIT ?"
_TOO_MANY: Final = (
    "DELETE FROM events WHERE seq <= (SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?)"
)
_TOO_MANY_OF_ONE: Final = (
    "DELETE FROM events WHERE seq IN (SELECT seq FROM (SELECT seq, ROW_NUMBER() OVER "
    "(PARTITION BY name ORDER BY seq DESC) AS place FROM events) WHERE place > ?)"
)
_TOO_OLD: Final = (
    "DELETE FROM events WHERE julianday(at) < julianday(?, ?) AND seq <= "
    "(SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?)"
)
