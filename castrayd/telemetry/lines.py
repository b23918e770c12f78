"""Where log lines go: a thread of its own writes them, so that nobody ever waits for a reader.

A terminal that is stopped, a full pipe, a full disk or a journal that is gone costs lines, which
are counted and told when writing goes on; it never costs the daemon. `logs` alone makes one.
"""

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, Protocol, TextIO, TypeVar

__all__ = ("LineWriter", "Outlet", "Stream")

LINES: Final = 10_000
"""So many lines may wait; further ones are dropped."""

Line = TypeVar("Line")
Line_contra = TypeVar("Line_contra", contravariant=True)


class Outlet(Protocol[Line_contra]):
    """What the thread writes to. May wait; OSError and ValueError say that a line is lost."""

    def write(self, line: Line_contra, /) -> None:
        """Take a line; it may stay in a buffer."""

    def flush(self) -> None:
        """Let go of what is in a buffer."""


class Stream:
    """Lines of text on a file, a pipe or a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._torn = False
        """Half a line may stand there: what follows must not be taken for the rest of it."""

    def write(self, line: str) -> None:
        """Write a line and its end."""
        whole = f"\n{line}\n" if self._torn else f"{line}\n"
        self._torn = True
        self._stream.write(whole)
        self._torn = False

    def flush(self) -> None:
        """Let go of what is in the stream's buffer."""
        try:
            self._stream.flush()
        except OSError:
            self._torn = True
            raise


class LineWriter(Generic[Line]):
    """Takes lines without waiting. The thread is a daemon: it holds up nobody's end."""

    def __init__(self, outlet: Outlet[Line], tell_dropped: Callable[[int], Line]) -> None:
        self._outlet = outlet
        self._tell_dropped = tell_dropped
        self._refused = 0  # only ever rises, as do the next two: no thread undoes another's count
        self._lost = 0
        self._told = 0
        self._lines: queue.Queue[Line | threading.Event] = queue.Queue(LINES)
        threading.Thread(target=self._run, name="castrayd-log", daemon=True).start()

    def write(self, line: Line) -> None:
        """Queue a line; dropped where too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._refused += 1

    def flush(self, timeout_s: float) -> None:
        """Wait until what is queued is written, or the time is up."""
        done = threading.Event()
        try:
            self._lines.put(done, timeout=timeout_s)
        except queue.Full:
            return
        done.wait(timeout_s)

    def _run(self) -> None:
        while True:
            item = self._lines.get()
            if isinstance(item, threading.Event):
                self._done(self._outlet.flush)
                item.set()
            elif not (self._caught_up() and self._put(item)):
                self._lost += 1

    def _caught_up(self) -> bool:
        """Tell how many are missing, if any; where even that cannot be written, they all are."""
        missing = self._refused + self._lost - self._told
        if missing and not self._put(self._tell_dropped(missing)):
            return False
        self._told += missing
        return True

    def _put(self, line: Line) -> bool:
        if not self._done(lambda: self._outlet.write(line)):
            return False
        return not self._lines.empty() or self._done(self._outlet.flush)  # a burst is one write

    @staticmethod
    def _done(act: Callable[[], object]) -> bool:
        try:
            act()
        except (OSError, ValueError):
            return False  # a full disk, or a stream that is closed: the line is lost, no more
        return True
