"""Whose turn it is in a casting node's folder."""

import os
import threading
from pathlib import Path

from castrayd.driver.caster.turn import Turn
from tests.support.processes import until


class Process:
    """Stands for a process: what takes its turn in a thread, and ends when it is told to."""

    def __init__(self, folder: Path, owner: str, made: str) -> None:
        self.has_it = self.has_ended = False
        self._turn = Turn(str(folder), owner, made, self.end)
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        self._turn.take()
        self.has_it = True

    def end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            os.close(self._turn._lock)


def _gets_it(process: Process) -> None:
    until(lambda: process.has_it, 5, "its turn")


def _waits(process: Process, other: Process) -> None:
    stopped = threading.Event()
    stopped.wait(1.0)
    assert not process.has_it
    assert not other.has_ended


def test_what_the_owner_makes_later_takes_over(tmp_path: Path) -> None:
    """The earlier process ends; started again by its cluster it waits, and is heir in the end."""
    first = Process(tmp_path, "me", "1")
    _gets_it(first)
    second = Process(tmp_path, "me", "2")
    _gets_it(second)
    assert first.has_ended

    again = Process(tmp_path, "me", "1")
    _waits(again, second)
    second.end()
    _gets_it(again)
    _waits(Process(tmp_path, "me", "2"), again)


def test_another_owner_waits(tmp_path: Path) -> None:
    """Two clusters of two daemons may share a host: nobody is driven out of its own folder."""
    first = Process(tmp_path, "me", "1")
    _gets_it(first)
    other = Process(tmp_path, "you", "2")
    _waits(other, first)
    first.end()
    _gets_it(other)


def test_damaged_note_is_as_none(tmp_path: Path) -> None:
    """A torn note costs nobody its turn."""
    (tmp_path / ".castray-turn").write_text('{"owner": "me"')
    first = Process(tmp_path, "me", "1")
    _gets_it(first)
    second = Process(tmp_path, "me", "2")
    _gets_it(second)
