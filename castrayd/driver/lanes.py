"""Worker threads, one queue each: Ray blocks, and what it blocks must not block the rest."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable

__all__ = ("Lane",)


class Lane:
    """One thread that runs jobs in order. It is a daemon thread: nothing waits for its end."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; it must not raise."""
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            try:
                self._jobs.get()()
            except BaseException:  # noqa: BLE001  a lane that dies answers nobody any more
                traceback.print_exc()
