"""One gRPC peer asked: what listens there decides the class, and nothing is left behind."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import psutil
import pytest
from anyio.abc import SocketAttribute, SocketStream

from castrayd.errors import ERROR_CLASSES, AttachError, ErrorType
from castrayd.probe.credentials import Credentials
from castrayd.probe.grpc_library import grpc_aio
from castrayd.probe.peer import Identity, Peer
from tests.support import peers
from tests.support.fake_head import fake_head
from tests.support.peers import endpoint
from tests.support.proxy import proxy_to

Listener = Callable[[], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _peer(address: str, token: str | None = None) -> AsyncIterator[Peer]:
    peer = Peer(endpoint(address), Credentials(token))
    try:
        yield peer
    finally:
        await peer.close()


@asynccontextmanager
async def _far_away(port: int, one_way_s: float) -> AsyncIterator[str]:
    """A link to a port that takes so long in each direction."""

    async def carry(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
        try:
            async for data in source:
                await anyio.sleep(one_way_s)
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()

    async def serve(client: SocketStream) -> None:
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", port) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(carry, client, server, tasks.cancel_scope)
            tasks.start_soon(carry, server, client, tasks.cancel_scope)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("listener", "kind"),
    [
        (peers.http_server, ErrorType.NOT_RAY),
        (peers.banner, ErrorType.NOT_RAY),
        (peers.silent, ErrorType.HEALTH_TIMEOUT),
        (peers.resetting, ErrorType.TCP_RESET),
        (peers.refused, ErrorType.TCP_RESET),  # it accepted a moment ago, in the phase before
        (lambda: fake_head(serving=2), ErrorType.GCS_NOT_SERVING),
        (lambda: fake_head(tls=True), ErrorType.TLS_FAILURE),
    ],
)
async def test_listener_decides_the_class_of_a_check(listener: Listener, kind: ErrorType) -> None:
    """Class and phase fit the closed table, and the deadline is kept."""
    async with listener() as address, _peer(address) as peer:
        began_s = time.perf_counter()
        with pytest.raises(AttachError) as caught:
            await peer.check(0.7)
        fault = caught.value.fault

        assert fault.type is kind
        assert fault.phase in ERROR_CLASSES[kind].phases
        assert address in fault.message
        assert time.perf_counter() - began_s < 1.0


async def test_identity_is_read() -> None:
    """Ray's version and the cluster's id, with the token where one is wanted."""
    async with fake_head(token="t" * 40) as address, _peer(address, "t" * 40) as peer:
        assert await peer.identity(1.0) == Identity("2.60.0", (b"c" * 28).hex())


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (None, ErrorType.AUTH_MISSING),
        ("w" * 40, ErrorType.AUTH_REJECTED),
        ("line\nbreak", ErrorType.AUTH_REJECTED),
        ("schlüssel", ErrorType.AUTH_REJECTED),
    ],
)
async def test_bad_token_is_named_and_never_shown(token: str | None, kind: ErrorType) -> None:
    """Also one that no header can carry, for which gRPC has an error of its own."""
    async with fake_head(token="t" * 40) as address, _peer(address, token) as peer:
        with pytest.raises(AttachError) as caught:
            await peer.identity(1.0)

        assert caught.value.fault.type is kind
        assert token is None or token not in caught.value.fault.message


async def test_head_that_knows_no_identity_is_unknown() -> None:
    """Ray's own protocol is no promise: UNIMPLEMENTED is no failure."""
    async with fake_head(knows_identity=False) as address, _peer(address) as peer:
        assert await peer.identity(1.0) == Identity(None, None)
        assert await peer.cluster_id(1.0) is None


async def test_version_that_is_none_is_unknown() -> None:
    """A stranger's text does not get onto terminals by way of the version."""
    async with fake_head(version="\x1b[2J") as address, _peer(address) as peer:
        assert (await peer.identity(1.0)).ray_version is None


async def test_silence_about_the_cluster_id_is_never_the_same_cluster() -> None:
    """An attempt goes on without the id; who asks whether it is still the same gets an error."""
    async with fake_head() as address, proxy_to("127.0.0.1", endpoint(address).port) as proxy:
        proxy.held, proxy.held_s = b"GetClusterId", 2.0
        async with _peer(proxy.address) as peer:
            assert (await peer.identity(0.3)).cluster_id is None
        async with _peer(proxy.address) as peer:
            with pytest.raises(AttachError) as caught:
                await peer.cluster_id(0.3)
            assert caught.value.fault.type is ErrorType.HEALTH_TIMEOUT


async def test_head_far_away_is_good() -> None:
    """A round trip of 400 ms is within the deadline, and no fault."""
    async with (
        fake_head() as address,
        _far_away(endpoint(address).port, 0.2) as far,
        _peer(far) as peer,
    ):
        await peer.check(2.0)


async def test_two_first_calls_share_one_channel_and_close_ends_it() -> None:
    """One connection, gone after the close; a closed peer does not open another."""
    async with fake_head() as address, _peer(address) as peer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.check, 1.0)
            tasks.start_soon(peer.check, 1.0)
        assert _connections_to(endpoint(address).port) == 1
        await peer.close()
        with pytest.raises(AttachError):
            await peer.check(1.0)
        with anyio.fail_after(2.0):
            while _connections_to(endpoint(address).port):
                await anyio.sleep(0.02)


def _connections_to(port: int) -> int:
    """Count this host's established connections whose remote end is the port."""
    found = psutil.net_connections("tcp")
    return sum(c.raddr[1:] == (port,) and c.status == "ESTABLISHED" for c in found)


async def test_cancelled_watch_and_check_leave_nothing() -> None:
    """Cancelling is prompt, in the middle of a silent call too."""
    async with peers.silent() as address, _peer(address) as peer:
        began_s = time.perf_counter()
        with anyio.move_on_after(0.1):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.watch, anyio.Event())
                tasks.start_soon(peer.check, 30.0)
        assert time.perf_counter() - began_s < 0.3


async def test_watch_tells_not_serving() -> None:
    """A server that says that it is not serving is no good stream."""
    async with fake_head(serving=2) as address, _peer(address) as peer:
        established = anyio.Event()
        with anyio.fail_after(2.0):
            assert "not serving" in await peer.watch(established)
        assert not established.is_set()


async def test_grpc_is_loaded_once() -> None:
    """Every peer uses the same module."""
    async with fake_head() as address, _peer(address) as peer:
        await peer.check(1.0)
        assert grpc_aio().__name__ == "grpc"


async def test_token_that_a_peer_sends_back_is_not_told() -> None:
    """What a peer says goes into logs and status: a hostile one may echo what it was shown."""
    async with fake_head(token="t" * 40, echoes=True) as address, _peer(address, "w" * 40) as peer:
        with pytest.raises(AttachError) as caught:
            await peer.identity(1.0)

        assert "you sent Bearer [redacted]" in caught.value.fault.message
        assert "w" * 40 not in caught.value.fault.message
