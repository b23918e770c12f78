"""What systemd is told, word by word, on a socket of the test's own."""

import itertools
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from castrayd.service import ServiceManager
from tests.support.notified import Listener


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "n"))
    yield made
    made.close()


def test_every_word_is_one_datagram(listener: Listener, tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "n")})
    manager.ready(lambda: "connected")
    manager.status(lambda: "two\nlines")
    manager.reloading()
    manager.stopping(2.5)
    ready, status, reloading, stopping = listener.datagrams()
    assert ready == "READY=1\nSTATUS=connected"
    assert status == "STATUS=two lines"
    word, moment = reloading.splitlines()
    assert word == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=")
    assert stopping == "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=2500000"


def test_a_long_status_stays_whole_text(listener: Listener, tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "n")}).status(lambda: "ä" * 2000)
    (status,) = listener.datagrams()
    assert status == f"STATUS={'ä' * 512}"


def test_an_abstract_address() -> None:
    name = f"castrayd-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).status(lambda: "here")
    assert listener.datagrams() == ["STATUS=here"]
    listener.close()


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "x" * 300])
def test_nobody_to_tell_is_no_trouble(address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    manager.ready(lambda: "up")
    manager.stopping(1)


def _watched(tmp_path: Path, **more: str) -> ServiceManager:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "60000"}
    return ServiceManager({**environ, **more})


async def _nothing() -> None:
    return


async def test_pings_while_there_is_life(listener: Listener, tmp_path: Path) -> None:
    with anyio.move_on_after(0.5):
        await _watched(tmp_path).watch(_nothing)
    pings = listener.datagrams()
    assert set(pings) == {"WATCHDOG=1"}
    assert len(pings) >= 3


async def test_no_ping_without_proof(listener: Listener, tmp_path: Path) -> None:
    async def refused() -> None:
        raise ConnectionRefusedError

    with anyio.move_on_after(0.2):
        await _watched(tmp_path).watch(_nothing, anyio.sleep_forever)
    with anyio.move_on_after(0.2):
        await _watched(tmp_path).watch(_nothing, refused)
    assert listener.datagrams() == []


async def test_one_proof_that_is_late_costs_a_ping_and_no_more(
    listener: Listener, tmp_path: Path
) -> None:
    """Systemd must hear of us within its time, however one proof has stalled."""
    calls = 0
    pinged: list[float] = []

    async def proof() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            await anyio.sleep_forever()

    async def listen() -> None:
        while True:
            pinged.extend(anyio.current_time() for _ in listener.datagrams())
            await anyio.sleep(0.01)

    with anyio.move_on_after(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await _watched(tmp_path, WATCHDOG_USEC="1000000").watch(proof)
    gaps = [later - before for before, later in itertools.pairwise(pinged)]
    assert calls > 4
    assert max(gaps) < 0.9, gaps


def test_what_must_be_heard_waits_for_room(listener: Listener, tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "n")})
    for number in range(1000):
        manager.status(partial(str, number))  # until nothing more fits, and those are dropped
    heard: list[str] = []
    drained = threading.Timer(0.2, lambda: heard.extend(listener.datagrams()))
    drained.start()
    manager.ready(lambda: "now")
    drained.join()
    assert "READY=1\nSTATUS=now" in (*heard, *listener.datagrams())


def test_nothing_is_said_after_the_end_has_begun(listener: Listener, tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "n")})
    manager.stopping(1)
    manager.status(lambda: "connected")
    manager.reloading()
    manager.ready(lambda: "connected")
    (only,) = listener.datagrams()
    assert only.startswith("STOPPING=1")


@pytest.mark.parametrize(
    "more", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}]
)
async def test_no_watchdog_is_meant_for_us(
    listener: Listener, tmp_path: Path, more: dict[str, str]
) -> None:
    await _watched(tmp_path, **more).watch(_nothing)
    assert listener.datagrams() == []


async def test_the_watchdog_of_this_process(listener: Listener, tmp_path: Path) -> None:
    with anyio.move_on_after(0.2):
        await _watched(tmp_path, WATCHDOG_PID=str(os.getpid())).watch(_nothing)
    assert listener.datagrams()
