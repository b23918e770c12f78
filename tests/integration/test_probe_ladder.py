"""The ladder on a real head: every rung timed, every rung able to break."""

import random
import time
from importlib import metadata

import anyio
import pytest

from castrayd.core.candidates import parse_address
from castrayd.core.phases import PhaseClock
from castrayd.core.policy import Deadlines
from castrayd.errors import AttachError, ErrorType, Phase
from castrayd.probe.credentials import Credentials
from castrayd.probe.discovery import Discovery, discover
from castrayd.probe.grpc_library import load_grpc
from castrayd.probe.ladder import Climb, climb
from castrayd.probe.local_node import raylets, usable
from castrayd.probe.resolve import endpoint_of
from castrayd.probe.returned import _has_local_node, wait_returned
from tests.support import peers
from tests.support.fake_head import fake_head
from tests.support.proxy import proxy_to
from tests.support.ray import RayHead, ray_head

DEADLINES = Deadlines(local_node_s=0.5)


async def _climb(
    text: str, *, token: str | None = None, expect: str | None = None
) -> tuple[PhaseClock, Climb]:
    await load_grpc()
    clock = PhaseClock(time.perf_counter)

    async def expected() -> str | None:
        return expect

    seen = await climb(
        parse_address(text),
        clock=clock,
        deadlines=DEADLINES,
        credentials=Credentials(token),
        expect=expected,
    )
    return clock, seen


async def _unknown() -> str | None:
    return None


async def _fault(text: str, **how: str) -> tuple[ErrorType, Phase]:
    with pytest.raises(AttachError) as caught:
        await _climb(text, **how)
    return caught.value.fault.type, caught.value.fault.phase


async def test_refused_port_breaks_the_second_rung() -> None:
    """What comes after is not begun, and absent from the clock."""
    clock = PhaseClock(time.perf_counter)
    async with peers.refused() as address:
        with pytest.raises(AttachError):
            await climb(
                parse_address(address),
                clock=clock,
                deadlines=DEADLINES,
                credentials=Credentials(),
                expect=_unknown,
            )
    assert list(clock.durations) == [Phase.RESOLVE, Phase.TCP]


async def test_other_ray_version_is_a_mismatch() -> None:
    """The cluster's Ray against the session's; unknown on either side is none."""
    async with fake_head(version="1.99.0") as address:
        mismatch = (ErrorType.VERSION_MISMATCH, Phase.IDENTITY)
        absent = (ErrorType.NO_LOCAL_NODE, Phase.LOCAL_NODE)
        assert await _fault(address, expect=metadata.version("ray")) == mismatch
        assert await _fault(address) == absent


@pytest.mark.ray
async def test_real_head_is_climbed_to_its_raylet(head: RayHead) -> None:
    """All rungs, in milliseconds, with what the raylet's own command line says."""
    clock, seen = await _climb(head.address, expect=metadata.version("ray"))
    raylet = head.raylet
    assert raylet is not None

    assert list(clock.durations) == [
        Phase.RESOLVE, Phase.TCP, Phase.HEALTH, Phase.IDENTITY, Phase.LOCAL_NODE,
    ]  # fmt: skip
    assert seen.identity.cluster_id == raylet.cluster_id
    assert seen.local_node is not None
    assert seen.local_node.node_id == raylet.node_id
    assert sum(clock.durations.values()) < 0.25


@pytest.mark.ray
async def test_late_stage_moves_its_own_phase_alone(head: RayHead) -> None:
    """300 ms held back in the identity call are found in the phase identity, and nowhere else."""
    async with proxy_to("127.0.0.1", head.port) as proxy:
        proxy.held, proxy.held_s = b"CheckAlive", 0.3
        clock, _ = await _climb(proxy.address)

    late = clock.durations.pop(Phase.IDENTITY)
    assert 0.3 <= late < 0.5
    assert max(clock.durations.values()) < 0.2


@pytest.mark.ray
async def test_token_modes_of_a_real_head() -> None:
    """None, a wrong one and the right one; health needs none."""
    with ray_head(token="t" * 40) as own:
        assert await _fault(own.address) == (ErrorType.AUTH_MISSING, Phase.IDENTITY)
        wrong = (ErrorType.AUTH_REJECTED, Phase.IDENTITY)
        assert await _fault(own.address, token="w" * 40) == wrong
        _, seen = await _climb(own.address, token="t" * 40)
        assert seen.identity.ray_version == metadata.version("ray")


@pytest.mark.ray
async def test_discovery_finds_the_real_head(head: RayHead) -> None:
    """A real raylet is believed: it is the program that it says."""
    raylet = head.raylet
    assert raylet is not None
    assert raylet.gcs_address in [candidate.text for candidate in await discover(Discovery(), 2.0)]


@pytest.mark.ray
async def test_returned_fires_after_failing_and_never_on_what_was_always_good(
    head: RayHead,
) -> None:
    """Edge-triggered: a good head alone is no return; one that comes is, within two looks."""

    async def wait(port: int) -> None:
        await wait_returned(
            parse_address(f"127.0.0.1:{port}"),
            known_nodes=1,
            deadlines=Deadlines(),
            tls=None,
            rng=random.Random(1),
            interval_s=0.1,
        )

    await load_grpc()
    with anyio.move_on_after(1.0) as scope:
        await wait(head.port)
    assert scope.cancelled_caught
    with ray_head(start=False) as later:
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()

            async def waiting() -> None:
                await wait(later.port)
                done.set()

            tasks.start_soon(waiting)
            await anyio.sleep(0.5)
            assert not done.is_set()
            later.start(wait=False)
            with anyio.fail_after(30):
                await done.wait()
        assert later.raylet is not None


@pytest.mark.ray
async def test_lingering_raylet_of_a_dead_cluster_is_no_return(head: RayHead) -> None:
    """The raylet's socket accepts and its address fits, but the head has another id by now."""
    raylet = head.raylet
    assert raylet is not None
    new_id = (b"c" * 28).hex()

    assert usable(raylets(), None, raylet.gcs_address) is not None
    assert usable(raylets(), new_id, raylet.gcs_address) is None


@pytest.mark.ray
async def test_raylet_of_another_head_with_the_same_port_is_no_return(head: RayHead) -> None:
    """A head on another host that keeps its id to itself: our raylet with its port is not its."""
    elsewhere = f"192.0.2.77:{head.raylet.gcs_address.rpartition(':')[2]}" if head.raylet else ""
    address = parse_address(elsewhere)
    assert not _has_local_node(raylets(), address, endpoint_of(address.host, address.port), None)
