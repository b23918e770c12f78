"""What a casting node's state folder remembers of its receipts over restarts.

The finished ones, so that a late question is answered as the first was; and the open ones with
their paths, so that what was never finished can be found and removed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

from castrayd.driver.caster.roots import TEMP_PREFIX

__all__ = ("Finished", "Opened")

KEPT = 1000


class Finished:
    """The results of the last 1000 finished receipts by id. Thread-safe; raises OSError."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, f"{TEMP_PREFIX}done")
        self._lock = threading.Lock()
        self._results: dict[str, dict[str, Any]] = {}
        self._lines = self._load()

    def _load(self) -> int:
        try:
            with open(self._path, encoding="utf-8") as file:
                lines = list(filter(None, file.read().split("\n")))
        except FileNotFoundError:
            return 0
        for line in lines:
            try:
                record = json.loads(line)
                self._keep(record["id"], record["result"])
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash
        return len(lines)

    def get(self, transfer: str) -> dict[str, Any] | None:
        """Return how a receipt ended; None when it has not, or too many have since."""
        with self._lock:
            return self._results.get(transfer)

    def put(self, transfer: str, result: dict[str, Any]) -> None:
        """Remember how a receipt ended; lasting when it returns."""
        with self._lock:
            self._keep(transfer, result)
            if self._lines >= 2 * KEPT:
                self._rewrite()
            else:
                self._write(self._path, [_line(transfer, result)], "a")
                self._lines += 1

    def drop(self, transfer: str) -> None:
        """Forget how a receipt ended, as long as this process lives, or until it ends again."""
        with self._lock:
            self._results.pop(transfer, None)

    def _keep(self, transfer: str, result: dict[str, Any]) -> None:
        self._results.pop(transfer, None)
        self._results[transfer] = result
        while len(self._results) > KEPT:
            del self._results[next(iter(self._results))]

    def _rewrite(self) -> None:
        self._write(self._path + ".new", [_line(*item) for item in self._results.items()], "w")
        os.replace(self._path + ".new", self._path)
        _sync(os.path.dirname(self._path))
        self._lines = len(self._results)

    def _write(self, path: str, lines: list[str], mode: str) -> None:
        with open(path, mode, encoding="utf-8") as file:
            # a line torn by a crash must not swallow the next one
            file.write("".join(f"\n{line}" if mode == "a" else f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


class Opened:
    """The paths of receipts in progress by id, a small file each. Thread-safe; raises OSError."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, f"{TEMP_PREFIX}open")
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def put(self, transfer: str, path: str) -> None:
        """Note a receipt that begins, or goes on; lasting when it returns."""
        temporary = os.path.join(self._folder, f".{transfer}.{threading.get_ident()}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(path)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(self._folder, transfer))
        _sync(self._folder)

    def get(self, transfer: str) -> str | None:
        """Return where a receipt was to go; None when none is open."""
        try:
            with open(os.path.join(self._folder, transfer), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def drop(self, transfer: str) -> None:
        """Forget a receipt."""
        try:
            os.unlink(os.path.join(self._folder, transfer))
        except FileNotFoundError:
            return

    def older(self, age_s: float) -> list[str]:
        """Return the ids of those that began, or last went on, longer ago than `age_s` seconds."""
        before = time.time() - age_s  # noqa: TID251  the times of files are wall time
        with os.scandir(self._folder) as entries:
            return [e.name for e in entries if e.name[0] != "." and e.stat().st_mtime < before]


def _sync(folder: str) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(transfer: str, result: dict[str, Any]) -> str:
    return json.dumps({"id": transfer, "result": result}, separators=(",", ":"))
