"""The end of the daemon, wanted or not: nothing of it may be left."""

import os
import signal
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused, silent
from tests.support.ray import RayHead, ray_head

Status = dict[str, Any]


async def _killed(daemon: Daemon, within_s: float = 1.0) -> None:
    """SIGKILL the daemon; nothing of it may live on."""
    daemon.signal(signal.SIGKILL)
    await daemon.exit_code()
    await daemon.nothing_left(within_s)


async def test_killed_with_a_session_standing_by() -> None:
    """The session that stands by dies with the daemon."""
    async with refused() as address, running_daemon(address=address) as daemon:
        with anyio.fail_after(10):
            while not daemon.children():
                await anyio.sleep(0.02)
        await _killed(daemon)
        daemon._process = None


@pytest.mark.ray
async def test_killed_while_connected(head: RayHead) -> None:
    """The session that holds the driver dies with the daemon."""
    async with running_daemon(address=head.address) as daemon:
        await daemon.wait_state("connected")
        await _killed(daemon)
        daemon._process = None


@pytest.mark.ray
@pytest.mark.parametrize("part", ["gcs", "raylet"])
async def test_killed_inside_init_against_a_frozen_part(part: str) -> None:
    """Also a session whose C++ holds the interpreter dies with the daemon."""
    with ray_head() as head:
        raylet, gcs = head.raylet, head.gcs_pid
        assert raylet is not None
        assert gcs is not None
        async with running_daemon(address=head.address) as daemon:
            await daemon.wait_status("local_node", _reached("local_node"))
            os.kill(raylet.pid if part == "raylet" else gcs, signal.SIGSTOP)
            await daemon.wait_status("in init", _reached("spawn"))
            await anyio.sleep(0.5)
            assert (await daemon.status())["state"] == "discovering"
            await _killed(daemon)
            daemon._process = None


def _reached(phase: str) -> Callable[[Status], bool]:
    return lambda s: s["attempt"] is not None and phase in s["attempt"]["phases"]


async def test_sigterm_while_a_session_is_spawned() -> None:
    """SIGTERM in the first moments, when a child is being started: exit 0, nothing left."""
    async with refused() as address:
        for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
            async with running_daemon(address=address):
                await anyio.sleep(delay_s)


async def test_sigterm_while_discovering() -> None:
    """SIGTERM in the middle of an attempt: it is cancelled, exit 0."""
    async with silent() as address, running_daemon(address=address) as daemon:
        await daemon.wait_state("discovering")
        await daemon.stop()
        attempt = [line for line in daemon.logs() if "cancelled" in line["message"]]
        assert attempt


@pytest.mark.ray
async def test_sigterm_while_degraded() -> None:
    """SIGTERM while the control plane hangs: no waiting for it."""
    with ray_head() as head:
        async with running_daemon(address=head.address) as daemon:
            await daemon.wait_state("connected")
            gcs = head.gcs_pid
            assert gcs is not None
            os.kill(gcs, signal.SIGSTOP)
            await daemon.wait_state("degraded")
            began = anyio.current_time()
            await daemon.stop()
            assert anyio.current_time() - began < 3.0


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stop_while_connected(head: RayHead, number: int) -> None:
    """Both stopping signals end it cleanly; its socket is gone."""
    async with running_daemon(address=head.address) as daemon:
        await daemon.wait_state("connected")
        daemon.signal(number)
        assert await daemon.exit_code() == 0
        await daemon.nothing_left(1.0)
        assert not daemon.socket.exists()


async def test_second_sigterm_ends_at_once() -> None:
    """Whoever asks twice is not made to wait; still nothing is left."""
    async with silent() as address, running_daemon(address=address) as daemon:
        await daemon.wait_state("discovering")
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGTERM)
        assert await daemon.exit_code(2.0) == 0
        await daemon.nothing_left(1.0)
