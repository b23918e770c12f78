"""The TCP rung on real sockets: classes by errno, in time."""

import statistics
import time

import pytest

from castrayd.errors import AttachError, ErrorType
from castrayd.probe.tcp import connect
from tests.support import peers
from tests.support.peers import endpoint


async def test_refused_is_told_within_two_milliseconds() -> None:
    """The errno is the code; the middle of twenty tries counts, for the machine has others."""
    took: list[float] = []
    async with peers.refused() as address:
        for _ in range(20):
            began_s = time.perf_counter()
            with pytest.raises(AttachError) as caught:
                await connect([endpoint(address)], timeout_s=1.0)
            took.append(time.perf_counter() - began_s)

    fault = caught.value.fault
    assert (fault.type, fault.code) == (ErrorType.TCP_REFUSED, "ECONNREFUSED")
    assert statistics.median(took) < 0.002


async def test_full_queue_is_a_timeout_at_the_deadline() -> None:
    """A listener that is overrun neither accepts nor refuses."""
    async with peers.full_queue() as address:
        began_s = time.perf_counter()
        with pytest.raises(AttachError) as caught:
            await connect([endpoint(address)], timeout_s=0.3)

    assert caught.value.fault.type is ErrorType.TCP_TIMEOUT
    assert 0.3 <= time.perf_counter() - began_s < 0.6


async def test_second_endpoint_is_reached_past_a_silent_first() -> None:
    """A name with one address that leads nowhere is connected by its other one."""
    async with peers.full_queue() as hole, peers.silent() as good:
        won = await connect([endpoint(hole), endpoint(good)], timeout_s=2.0)
        assert won == endpoint(good)


async def test_all_failures_are_told_and_the_preferred_one_decides() -> None:
    """With several endpoints none is left out of the message."""
    async with peers.refused() as one, peers.refused() as other:
        with pytest.raises(AttachError) as caught:
            await connect([endpoint(one), endpoint(other)], timeout_s=1.0)

    assert caught.value.fault.type is ErrorType.TCP_REFUSED
    assert one in caught.value.fault.message
    assert other in caught.value.fault.message
