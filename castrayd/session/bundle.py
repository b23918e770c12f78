"""Messages for many nodes, in as few frames as may be.

What is handed over in one turn of the loop goes out together, and in it each message is once,
however many nodes it is for. Every node's part is a request of its own, with its own answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

__all__ = ("Bundle", "Row")

Row: TypeAlias = tuple[str, str, str]
"""A message: its id, its sender, its body as JSON."""

FRAME_CHARACTERS: Final = 4 * 1024 * 1024
"""Of bodies in one frame, and one node's more; escaped it may be twelve times as long."""


class Bundle:
    """Gathers, for use in one loop. `write` takes a frame and never waits."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._clear()

    def _clear(self) -> None:
        self._rows: dict[Row, int] = {}
        self._calls: list[tuple[int, str, list[int], float]] = []
        self._size = 0

    def add(self, id_: int, name: str, rows: Sequence[Row], timeout_s: float) -> None:
        """Have messages sent to a node, to be answered under an id, at the end of this turn."""
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._flush)
        self._calls.append((id_, name, [self._number(row) for row in rows], timeout_s))
        if self._size > FRAME_CHARACTERS:
            self._flush()

    def _number(self, row: Row) -> int:
        known = self._rows.get(row)
        if known is None:
            known = self._rows[row] = len(self._rows)
            self._size += len(row[2])
        return known

    def _flush(self) -> None:
        if self._calls:
            calls, rows = self._calls, list(self._rows)
            self._clear()
            self._write({"op": "cast.deliver", "rows": rows, "calls": calls})
