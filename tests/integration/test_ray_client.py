"""Ray Client (`ray://`): attached, its failures named, its loss seen."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.support import peers
from tests.support.daemon import Daemon, running_daemon
from tests.support.processes import kill, marked
from tests.support.ray import RayHead, ray_head

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """A head whose Ray Client server listens."""
    with ray_head() as running:
        running.wait_client_server()
        yield running


async def _error(daemon: Daemon, timeout_s: float = 12.0) -> Any:
    status = await daemon.wait_status("an error", lambda s: s["error"] is not None, timeout_s)
    return status["error"]["type"], status["error"]["phase"]


async def test_good_head_is_attached_in_the_lesser_mode(head: RayHead) -> None:
    """No cluster id, no raylet of ours; the node map and the checks are there all the same."""
    async with running_daemon(address=head.client_address) as daemon:
        status = await daemon.wait_state("connected", 60)
        nodes = await daemon.get("/api/cluster/nodes")

        assert status["address"]["mode"] == "client"
        assert status["cluster"]["id"] is None
        assert status["cluster"]["nodes_alive"] == len(nodes["nodes"]) == 1
        phases = status["attempt"]["phases"]
        assert list(phases) == ["resolve", "tcp", "health", "spawn", "init", "nodes"]


async def test_gcs_port_is_no_client_server(head: RayHead) -> None:
    """The most common mistake: the head's other port."""
    async with running_daemon(address=f"ray://{head.address}") as daemon:
        assert await _error(daemon) == ("client_server_unavailable", "health")


async def test_closed_port_and_other_servers_are_told_apart() -> None:
    """Refused is refused, and what speaks HTTP is no Ray."""
    for peer, expected in (
        (peers.refused, ("tcp_refused", "tcp")),
        (peers.http_server, ("not_ray", "health")),
        (peers.silent, ("health_timeout", "health")),
    ):
        async with peer() as address, running_daemon(address=f"ray://{address}") as daemon:
            assert await _error(daemon) == expected


async def test_frozen_head_is_a_timeout(head: RayHead) -> None:
    """The kernel accepts, and nobody answers."""
    pid = head.client_server_pid
    assert pid is not None
    kill(pid, signal.SIGSTOP)
    try:
        async with running_daemon(address=head.client_address) as daemon:
            assert await _error(daemon) == ("health_timeout", "health")
    finally:
        kill(pid, signal.SIGCONT)


async def test_token_is_needed_for_the_ping_too() -> None:
    """None, a wrong one and the right one."""
    with ray_head(token="t" * 40) as own:
        own.wait_client_server()
        address = own.client_address
        async with running_daemon(address=address) as daemon:
            assert (await _error(daemon))[0] == "auth_missing"
        async with running_daemon(address=address, environ={"RAY_AUTH_TOKEN": "w" * 40}) as daemon:
            assert (await _error(daemon))[0] == "auth_rejected"
        async with running_daemon(address=address, environ={"RAY_AUTH_TOKEN": "t" * 40}) as daemon:
            await daemon.wait_state("connected", 60)


@contextmanager
def _killing_each_client(head: RayHead) -> Iterator[None]:
    """End every server of a single client as soon as it is there, before it can serve."""
    over = threading.Event()
    proxy = psutil.Process(head.client_server_pid)

    def hunt() -> None:
        while not over.wait(0.002):
            for child in proxy.children():
                kill(child.pid)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield
    finally:
        over.set()
        hunter.join()


async def test_server_that_cannot_start_its_client_is_named_and_retried() -> None:
    """A head that starts no server for us is transient: later it does, and we are attached."""
    config = "[deadlines]\nclient_init_s = 5\n[backoff]\nmax_s = 1\n"  # a late kill makes init hang
    with ray_head() as own:
        own.wait_client_server()
        async with running_daemon(address=own.client_address, config=config) as daemon:
            with _killing_each_client(own):
                failed = await daemon.wait_event(
                    "castray.connection.attempt",
                    lambda e: (e["error"] or {}).get("type") == "client_server_start_failed",
                    60,
                )
            assert failed["error"]["phase"] == "init"
            await daemon.wait_state("connected", 60)


async def test_loss_of_the_server_is_seen_and_the_session_is_not_taken_for_alive() -> None:
    """Degraded within 10 s; with a new head there is another session, never the old one."""
    with ray_head() as own:
        own.wait_client_server()
        async with running_daemon(address=own.client_address) as daemon:
            before = await daemon.wait_state("connected", 60)
            killed_s = time.monotonic()
            own.kill()
            lost = await daemon.wait_status("a loss", lambda s: s["state"] != "connected", 10)
            assert time.monotonic() - killed_s < 10
            assert lost["state"] in {"degraded", "disconnected"}
            assert daemon.ray_processes() == []
            own.start()
            await daemon.another_session(before, 60)


async def test_gcs_that_hangs_behind_a_living_client_server_is_seen(head: RayHead) -> None:
    """The proxy and the client's own server answer for themselves, the cluster does not."""
    gcs = head.gcs_pid
    assert gcs is not None
    async with running_daemon(address=head.client_address) as daemon:
        before = await daemon.wait_state("connected", 60)
        kill(gcs, signal.SIGSTOP)
        try:
            lost = await daemon.wait_state("degraded", 10)
            assert [one["type"] for one in lost["reasons"]] == ["session_unresponsive"]
        finally:
            kill(gcs, signal.SIGCONT)
        after = await daemon.wait_state("connected", 15)
        assert after["session"]["pid"] == before["session"]["pid"]


async def test_gcs_that_hangs_before_the_attach_is_told_in_time(head: RayHead) -> None:
    """Ray's own half minute is cut short."""
    gcs = head.gcs_pid
    assert gcs is not None
    async with running_daemon(address=head.client_address, launch=False) as daemon:
        kill(gcs, signal.SIGSTOP)
        try:
            daemon.launch()
            await daemon.answers()
            assert await _error(daemon, 12.0) == ("init_timeout", "init")
        finally:
            kill(gcs, signal.SIGCONT)
        await daemon.wait_state("connected", 60)


async def test_lost_client_ends_its_session(head: RayHead) -> None:
    """The server of this one client dies alone: a new session is attached, nothing is started."""
    async with running_daemon(address=head.client_address) as daemon:
        before = await daemon.wait_state("connected", 60)
        for pid, line in marked(head._mark).items():
            if "--mode=specific-server" in line:
                kill(pid)
        after = await daemon.another_session(before, 40)
        assert after["attempt"]["trigger"] == "session_lost"
        assert daemon.ray_processes() == []
