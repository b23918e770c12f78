"""Clients that do not read: their connections are cut, so that they hold nothing for ever.

`app.serve` alone runs it. One look at all connections every few seconds costs less than a deadline
on every write, and covers the writes that aiohttp makes by itself.
"""

from asyncio import BaseTransport, Transport
from collections.abc import Callable, Iterable
from typing import Final

import anyio
import structlog

__all__ = ("WRITE_S", "cut_stuck")

log = structlog.get_logger("castrayd.control")

WRITE_S: Final = 10.0
"""A client that takes nothing of what waits for it for so long is cut off."""


async def cut_stuck(
    connections: Callable[[], Iterable[BaseTransport]], write_s: float = WRITE_S
) -> None:
    """Abort connections on which bytes have waited, none taken, for `write_s`; until cancelled."""
    waiting: dict[BaseTransport, int] = {}
    while True:
        await anyio.sleep(write_s)
        before, waiting = waiting, {}
        for transport in list(connections()):
            if not isinstance(transport, Transport) or transport.is_closing():
                continue
            size = transport.get_write_buffer_size()
            if size and before.get(transport) == size:
                log.info("a client does not read: cut off")
                transport.abort()
            elif size:
                waiting[transport] = size
