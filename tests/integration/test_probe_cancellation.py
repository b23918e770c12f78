"""A probe that is called off ends its own scope and nothing else."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from castrayd.errors import AttachError, ErrorType
from castrayd.probe.peer import Peer
from tests.support.fake_head import fake_head
from tests.support.peers import endpoint, silent


@pytest.mark.parametrize("call", ["check", "identity", "watch"])
async def test_cancelled_call_ends_its_scope_alone(call: str) -> None:
    """GRPC raises a cancellation of its own making; the tasks beside it must not feel it."""
    beside = []
    async with silent() as address:
        peer = Peer(endpoint(address))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "check": lambda: peer.check(5),
            "identity": lambda: peer.identity(5),
            "watch": lambda: peer.watch(anyio.Event()),
        }

        async def cancelled() -> None:
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel_soon, scope)
                await calls[call]()
            beside.append("cancelled" if scope.cancelled_caught else "not")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            await anyio.sleep(0.5)
            beside.append("alive")
        await peer.close()

    assert beside == ["cancelled", "alive"]


async def _cancel_soon(scope: anyio.CancelScope) -> None:
    await anyio.sleep(0.2)
    scope.cancel()


async def test_channel_closed_under_a_call_is_a_fault() -> None:
    """Closing the channel ends calls with a typed fault, a stream with a reason."""
    async with silent() as address:
        peer = Peer(endpoint(address))
        async with anyio.create_task_group() as tasks:

            async def check() -> None:
                with pytest.raises(AttachError) as caught:
                    await peer.check(5)
                assert caught.value.fault.type is ErrorType.TCP_RESET

            tasks.start_soon(check)
            await anyio.sleep(0.2)
            await peer.close()


async def test_watch_tells_when_it_is_established_and_why_it_ended() -> None:
    """A stream that is there sets its event; a server that goes ends it with a reason."""
    established = anyio.Event()
    why = []
    async with anyio.create_task_group() as tasks, fake_head() as address:
        peer = Peer(endpoint(address))

        async def watch() -> None:
            why.append(await peer.watch(established))

        tasks.start_soon(watch)
        with anyio.fail_after(5):
            await established.wait()
    await peer.close()

    assert len(why) == 1
