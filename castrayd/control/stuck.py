"""Clients that do not read or never ask: they are cut off, so that they hold nothing for ever.

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
    connections: Callable[[], Iterable[BaseTransport | None]],
    has_asked: Callable[[BaseTransport], bool],
    look_s: float = WRITE_S,
) -> None:
    """Abort connections that two looks, `look_s` apart, find stuck alike; until cancelled.

    Stuck is one on which bytes wait, of which none are taken, or which never asked for anything.
    """
    stuck: dict[BaseTransport, int] = {}
    while True:
        await anyio.sleep(look_s)
        before, stuck = stuck, {}
        for transport in list(connections()):
            if not isinstance(transport, Transport):
                continue  # one that closes is looked at too: it waits for who takes nothing
            size = transport.get_write_buffer_size()
            if not size and has_asked(transport):
                continue
            if before.get(transport) == size:
                log.debug("a client does not read, or asks nothing: cut off")
                transport.abort()
            else:
                stuck[transport] = size
