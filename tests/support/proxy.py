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
        self.held = b""
        """What carries this text is held back too: the name of a call, or a part of its answer."""
        self.held_s = 0.0

    async def serve(self, client: SocketStream) -> None:
        """Serve one connection."""
        with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with (
                client,
                await anyio.connect_tcp(*self._target) as server,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self._inward, client, server)
                await self._pass(server, client)
                tasks.cancel_scope.cancel()

    async def _inward(self, source: SocketStream, sink: SocketStream) -> None:
        await anyio.sleep(self.first_bytes_delay_s)
        await self._pass(source, sink)

    async def _pass(self, source: SocketStream, sink: SocketStream) -> None:
        with contextlib.suppress(
            anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
        ):
            async for data in source:
                if self.held and self.held in data:
                    await anyio.sleep(self.held_s)
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
