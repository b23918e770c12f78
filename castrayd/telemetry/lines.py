"""Where log lines go: a thread of its own writes them, so that nobody ever waits for a reader.

A terminal that is stopped, a full pipe or a full disk costs lines, which are counted and told when
writing goes on; it never costs the daemon. `logs` alone makes one.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final, TextIO

__all__ = ("LineWriter",)

LINES: Final = 10_000
"""So many lines may wait; further ones are dropped."""


class LineWriter:
    """Takes lines without waiting. The thread is a daemon: it holds up nobody's end."""

    def __init__(self, stream: TextIO, tell_dropped: Callable[[int], str]) -> None:
        self._stream = stream
        self._tell_dropped = tell_dropped
        self._dropped = 0
        self._lines: queue.Queue[str | threading.Event] = queue.Queue(LINES)
        threading.Thread(target=self._run, name="castrayd-log", daemon=True).start()

    def write(self, line: str) -> None:
        """Queue a line; dropped where too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

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
                with contextlib.suppress(OSError, ValueError):
                    self._stream.flush()
                item.set()
                continue
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._put(self._tell_dropped(dropped))
            self._put(item)

    def _put(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            if self._lines.empty():  # a burst is one write
                self._stream.flush()
        except (OSError, ValueError):
            return  # a full disk, or a stream that is closed: the line is lost, and nothing else
