"""The order of what casting writes into the ledger."""

import threading
from typing import Any, cast

import anyio
from msgspec import Struct

from castrayd.casting.records import Records


class _One(Struct):
    value: int


class _Ledger:
    """Whose first write hangs until it is let go."""

    def __init__(self) -> None:
        self.hang: threading.Event | None = threading.Event()
        self.written: list[bytes] = []

    def put_record(self, _kind: str, _key: str, body: bytes) -> None:
        hang, self.hang = self.hang, None
        if hang:
            hang.wait(5)
        self.written.append(body)


async def test_write_that_nobody_waits_for_does_not_come_last() -> None:
    """Else a restart would find what was true before."""
    ledger = _Ledger()
    hang = ledger.hang
    assert hang
    records = Records(cast("Any", ledger))
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.05):
            await records.put(_One, "x", _One(1))
        tasks.start_soon(records.put, _One, "x", _One(2))
        await anyio.sleep(0.05)
        hang.set()
    assert ledger.written == [b'{"value":1}', b'{"value":2}']
