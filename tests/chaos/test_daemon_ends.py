"""The end of the daemon, wanted or not: nothing of it may be left."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon, slow_python, spawning
from tests.support.peers import refused, silent
from tests.support.ray import RayHead, ray_head

Status = dict[str, Any]


async def _killed(daemon: Daemon) -> None:
    """SIGKILL the daemon; within a second nothing of it may live."""
    daemon.signal(signal.SIGKILL)
    await daemon.nothing_left(1.0)
    daemon.forget()


@pytest.mark.parametrize("ready", [False, True], ids=["starting", "with ray imported"])
async def test_killed_with_a_session_standing_by(*, ready: bool) -> None:
    """The session that stands by dies with the daemon, however far it has come."""
    async with refused() as address, running_daemon(address=address) as daemon:
        with anyio.fail_after(20):
            while not any(_has_ray(pid) or not ready for pid in daemon.children()):
                await anyio.sleep(0.02)
        await _killed(daemon)


def _has_ray(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "_raylet.so" in Path(f"/proc/{pid}/maps").read_text()
    return False


@pytest.mark.ray
async def test_killed_while_connected(head: RayHead) -> None:
    """The session that holds the driver dies with the daemon."""
    async with running_daemon(address=head.address) as daemon:
        await daemon.wait_state("connected")
        await _killed(daemon)


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
            await anyio.sleep(4.0)  # by now C++ holds the interpreter: no Python thread runs
            assert (await daemon.status())["state"] == "discovering"
            await _killed(daemon)


def _reached(phase: str) -> Callable[[Status], bool]:
    return lambda s: s["attempt"] is not None and phase in s["attempt"]["phases"]


async def _stops_within(daemon: Daemon, seconds: float) -> None:
    """SIGTERM: a clean end, and soon."""
    began = anyio.current_time()
    await daemon.stop()
    assert anyio.current_time() - began < seconds


async def test_sigterm_in_the_first_moments() -> None:
    """SIGTERM while the session that stands by is being started: exit 0, nothing left."""
    async with refused() as address:
        for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
            async with running_daemon(address=address):
                await anyio.sleep(delay_s)


@pytest.mark.ray
async def test_sigterm_while_an_attempt_spawns_its_session(head: RayHead, tmp_path: Path) -> None:
    """An interpreter that takes its time to start: the attempt is cancelled, nothing is left."""
    config = f'[session]\npython = "{slow_python(tmp_path)}"\n'
    async with running_daemon(address=head.address, config=config) as daemon:
        await daemon.wait_status("local_node", _reached("local_node"))
        await spawning(daemon, "slow")
        await _stops_within(daemon, 3.0)


async def test_sigterm_while_paused() -> None:
    """There is nothing to end but the daemon itself."""
    async with refused() as address, running_daemon(address=address) as daemon:
        await daemon.post("/api/pause")
        await daemon.wait_status("nothing under way", lambda s: s["next_retry_at"] is None)
        await _stops_within(daemon, 2.0)


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
            await _stops_within(daemon, 3.0)


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


@asynccontextmanager
async def _hard_to_stop(stop_s: float) -> AsyncIterator[Daemon]:
    """A daemon whose local cluster is frozen: its clean end would take three seconds."""
    config = f"[daemon]\nstop_s = {stop_s}\n"
    async with running_daemon("--allow-local-start", config=config) as daemon:
        await daemon.wait_state("connected", 40)
        for pid, line in daemon.children().items():
            if "/raylet/raylet" in line or "castrayd.driver.main" in line:
                os.kill(pid, signal.SIGSTOP)
        yield daemon


@pytest.mark.ray
async def test_stop_has_a_deadline() -> None:
    """What does not end within `daemon.stop_s` is ended; still nothing is left."""
    async with _hard_to_stop(stop_s=1.0) as daemon:
        began = anyio.current_time()
        daemon.signal(signal.SIGTERM)
        assert await daemon.exit_code() == 0
        assert 0.9 < anyio.current_time() - began < 4.2  # unhurried it is 3 s more than the kill
        await daemon.nothing_left(5.0)


@pytest.mark.ray
async def test_second_sigterm_ends_at_once() -> None:
    """Whoever asks twice is not made to wait; still nothing is left."""
    async with _hard_to_stop(stop_s=30.0) as daemon:
        began = anyio.current_time()
        daemon.signal(signal.SIGTERM)
        await anyio.sleep(0.3)
        assert daemon.process.poll() is None
        daemon.signal(signal.SIGTERM)
        assert await daemon.exit_code() == 0
        assert anyio.current_time() - began < 3.0  # unhurried it takes longer than that
        await daemon.nothing_left(5.0)
