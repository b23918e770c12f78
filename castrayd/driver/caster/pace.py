"""How fast a file is sent: no faster than was asked, and no more at once than gets through."""

from __future__ import annotations

import asyncio
import time

__all__ = ("Rate", "Window")

_FIRST = 2
_QUICK_S = 4.0
_SLOW_S = 10.0
"""A call is given up after 30 s; a chunk that takes a third of it is a sign of too many at once."""


class Rate:
    """Keeps what passes below so many bytes a second; None is without a limit."""

    def __init__(self, bytes_s: float | None) -> None:
        self._bytes_s = bytes_s
        self._free_s = time.monotonic()

    async def wait(self, count: int) -> None:
        """Wait until `count` bytes more may pass. What was not used is not saved up."""
        if not self._bytes_s:
            return
        now = time.monotonic()
        begins = max(now, self._free_s)
        self._free_s = begins + count / self._bytes_s
        if begins > now:
            await asyncio.sleep(begins - now)  # noqa: TID251  the cluster has no anyio


class Window:
    """So many chunks are on their way at most: fewer where they are slow, or calls would time out.

    For use in one loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = min(_FIRST, most)
        self._used = 0
        self._freed = asyncio.Event()

    async def enter(self) -> None:
        """Wait for a place and take it."""
        while self._used >= self.size:
            self._freed.clear()
            await self._freed.wait()
        self._used += 1

    def leave(self, took_s: float) -> None:
        """Give the place back; how long the chunk took tells how many there should be."""
        self._used -= 1
        if took_s < _QUICK_S:
            self.size = min(self.size + 1, self._most)
        elif took_s > _SLOW_S:
            self.size = max(self.size // 2, 1)
        self._freed.set()
