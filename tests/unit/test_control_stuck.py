"""Who is cut off: real transports over real sockets, with looks that come quickly."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from castrayd.control.stuck import cut_stuck

LOOK_S = 0.05
LONG_S = 6 * LOOK_S
"""Looks enough to have been cut for certain."""
BYTES = 1 << 20


class _Served:
    """One connection: our transport, and the client's end of it."""

    def __init__(self, transport: asyncio.Transport, client: socket.socket) -> None:
        self.transport = transport
        self.client = client

    async def cut_off(self) -> bool:
        """Whether it is cut off within the time that this takes."""
        with anyio.move_on_after(5.0):
            while not self.transport.is_closing():
                await anyio.sleep(0.01)
            return True
        return False


@asynccontextmanager
async def _served() -> AsyncIterator[_Served]:
    ours, client = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    with client:
        yield _Served(transport, client)
        transport.abort()
        await anyio.sleep(0)


@asynccontextmanager
async def _watching(
    *served: _Served, asked: Callable[[], bool] = lambda: True, look_s: float = LOOK_S
) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        connections = (None, *(one.transport for one in served))
        tasks.start_soon(cut_stuck, lambda: connections, lambda _: asked(), look_s)
        yield
        tasks.cancel_scope.cancel()


async def test_client_that_does_not_read_is_cut_off() -> None:
    """Bytes wait, none are taken: the connection is aborted, whatever was still to be sent."""
    async with _served() as served, _watching(served):
        served.transport.write(b"x" * BYTES)
        assert await served.cut_off()
        await anyio.sleep(0)
        assert served.transport.get_write_buffer_size() == 0
        assert served.transport.get_extra_info("socket").fileno() == -1


async def test_client_that_reads_slowly_stays() -> None:
    """However little it takes, it takes something: it gets everything."""
    look_s, got = 0.2, 0
    async with _served() as served, _watching(served, look_s=look_s):
        served.transport.write(b"x" * BYTES)
        until = anyio.current_time() + 5 * look_s
        while anyio.current_time() < until:
            await anyio.wait_readable(served.client)
            got += len(served.client.recv(1024))
            await anyio.sleep(0.01)
        assert not served.transport.is_closing()
        assert served.transport.get_write_buffer_size() > 0  # it was slow indeed
        with anyio.fail_after(10):
            while got < BYTES:
                await anyio.wait_readable(served.client)
                got += len(served.client.recv(1 << 16))


async def test_client_that_reads_again_in_time_stays() -> None:
    """Between two looks all was taken, and new bytes wait: that is no standstill."""
    async with _served() as served, _watching(served, look_s=0.5):
        for size in (BYTES, BYTES // 2, BYTES // 3, BYTES // 4):
            served.transport.write(b"x" * size)
            await anyio.sleep(0.3)
            while served.transport.get_write_buffer_size():
                await anyio.wait_readable(served.client)
                served.client.recv(1 << 20)
        assert not served.transport.is_closing()


async def test_client_that_never_asks_is_cut_off() -> None:
    """A connection that says nothing holds its place no longer than two looks."""
    async with _served() as served, _watching(served, asked=lambda: False):
        assert await served.cut_off()
        await anyio.wait_readable(served.client)
        assert served.client.recv(1) == b""


async def test_client_that_asks_late_but_asks_stays() -> None:
    """One look may find it silent."""
    asked = False
    async with _served() as served, _watching(served, asked=lambda: asked, look_s=0.2):
        await anyio.sleep(0.3)
        asked = True
        await anyio.sleep(0.5)
        assert not served.transport.is_closing()


async def test_client_that_has_asked_may_be_idle() -> None:
    """A follower of a quiet stream, or a kept connection: nothing waits, so nothing is stuck."""
    async with _served() as served, _watching(served):
        await anyio.sleep(LONG_S)
        assert not served.transport.is_closing()


async def test_stuck_client_takes_no_other_with_it() -> None:
    """Each is judged by itself, and what has ended meanwhile is passed over."""
    async with (
        _served() as stuck,
        _served() as idle,
        _served() as gone,
        _watching(stuck, idle, gone),
    ):
        gone.transport.close()
        stuck.transport.write(b"x" * BYTES)
        assert await stuck.cut_off()
        await anyio.sleep(LONG_S)
        assert not idle.transport.is_closing()
