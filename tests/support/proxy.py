"""A TCP proxy on loopback that can be told to be slow, silent or gone."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ("Proxy", "proxy_to")


class Proxy:
    """Passes bytes on to a target; every fault applies to what comes from now on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.address = ""
        self.first_bytes_delay_s = 0.0
        """How long the first bytes of each connection are held back."""
        self.delayed_method: bytes | None = None
        """Hold back only connections and calls that carry this text."""
        self.delay_s = 0.0

    async def serve(self, client: SocketStream) -> None:
        """Serve one connection."""
        with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with (
                client,
                await anyio.connect_tcp(*self._target) as server,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self._pass, client, server, True)
                await self._pass(server, client, False)
                tasks.cancel_scope.cancel()

    async def _pass(self, source: SocketStream, sink: SocketStream, inward: bool) -> None:
        first = True
        with contextlib.suppress(
            anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
        ):
            async for data in source:
                if inward and first and self.first_bytes_delay_s:
                    await anyio.sleep(self.first_bytes_delay_s)
                if inward and self.delayed_method and self.delayed_method in data:
                    await anyio.sleep(self.delay_s)
                first = False
                await sink.send(data)


@asynccontextmanager
async def proxy_to(host: str, port: int) -> AsyncIterator[Proxy]:
    """A proxy for the length of a block."""
    proxy = Proxy(host, port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        proxy.address = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, proxy.serve)
            yield proxy
            tasks.cancel_scope.cancel()
