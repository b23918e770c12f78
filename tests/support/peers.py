"""Awkward peers on loopback: what an address may turn out to be."""

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream

from castrayd.probe.resolve import Endpoint, endpoint_of

__all__ = ("banner", "endpoint", "full_queue", "http_server", "refused", "resetting", "silent")


def endpoint(address: str) -> Endpoint:
    """Make an endpoint of `ip:port`, as the probes take it."""
    host, _, port = address.rpartition(":")
    return endpoint_of(host, int(port))


Handler = Callable[[SocketStream], Awaitable[None]]


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncIterator[str]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handler)
            yield f"127.0.0.1:{port}"
            tasks.cancel_scope.cancel()


async def _quietly(stream: SocketStream, talk: Handler) -> None:
    with contextlib.suppress(
        anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError
    ):
        async with stream:
            await talk(stream)


def http_server() -> contextlib.AbstractAsyncContextManager[str]:
    """Answers every request in HTTP/1.1, as a dashboard would."""

    async def talk(stream: SocketStream) -> None:
        while True:
            await stream.receive()
            body = b"<html>a dashboard</html>"
            head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body)
            await stream.send(head + body)

    return _serving(lambda stream: _quietly(stream, talk))


def banner() -> contextlib.AbstractAsyncContextManager[str]:
    """Talks first, as an SSH server does."""

    async def talk(stream: SocketStream) -> None:
        await stream.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        while True:
            await stream.receive()

    return _serving(lambda stream: _quietly(stream, talk))


def silent() -> contextlib.AbstractAsyncContextManager[str]:
    """Accepts, and never says a word."""

    async def talk(stream: SocketStream) -> None:
        while True:
            await stream.receive()

    return _serving(lambda stream: _quietly(stream, talk))


def resetting() -> contextlib.AbstractAsyncContextManager[str]:
    """Accepts, and resets the connection at the first byte."""

    async def talk(stream: SocketStream) -> None:
        await stream.receive()
        raw = stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return _serving(lambda stream: _quietly(stream, talk))


@asynccontextmanager
async def full_queue() -> AsyncIterator[str]:
    """Neither accepts nor refuses: the queue of the listener is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await anyio.sleep(0.05)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def refused() -> AsyncIterator[str]:
    """Nothing listens, and nothing will: the port is bound and not listened on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"
