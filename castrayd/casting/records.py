"""What casting keeps over restarts: typed records in the ledger, one kind a type."""

from typing import TypeVar

import anyio
import msgspec

from castrayd.ledger import Ledger
from castrayd.threads import Threads

__all__ = ("Records",)

_T = TypeVar("_T", bound=msgspec.Struct)


class Records:
    """Durable when a call returns. Raises sqlite3.Error where the disk does not take it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._turn = anyio.Lock()
        """Writes go one after another, in the order in which they were asked for."""
        self._thread = Threads(1)
        """Also after one that nobody waits for any more: it must not come last."""

    def all(self, kind: type[_T]) -> list[_T]:
        """Return every record of a kind; blocks, for the start."""
        rows = self._ledger.records(kind.__name__)
        return [msgspec.json.decode(body, type=kind) for body in rows]

    async def put(self, kind: type[_T], key: str, record: _T) -> None:
        """Keep a record in the place of one with the same key."""
        body = msgspec.json.encode(record)
        async with self._turn:
            await self._thread.run(lambda: self._ledger.put_record(kind.__name__, key, body))

    async def delete(self, kind: type[msgspec.Struct], key: str) -> None:
        """Forget a record."""
        async with self._turn:
            await self._thread.run(lambda: self._ledger.delete_record(kind.__name__, key))
