"""The running daemon and what started it: the words it sends, in order, and its watchdog."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.support.daemon import running_daemon
from tests.support.notified import Listener
from tests.support.processes import free_port


class Manager(Listener):
    """The other end of NOTIFY_SOCKET, which remembers."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """Everything heard so far."""
        self.heard += self.datagrams()
        return self.heard

    async def wait(self, start: str, after: int = 0, timeout_s: float = 10) -> int:
        """Wait for a datagram that begins so; returns how many had come with it."""
        with anyio.fail_after(timeout_s):
            while True:
                for number, text in enumerate(self.listen()[after:], after + 1):
                    if text.startswith(start):
                        return number
                await anyio.sleep(0.02)


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:
        made = Manager(Path(folder) / "n")
        yield made
        made.close()


async def test_start_reload_stop(manager: Manager) -> None:
    address = f"127.0.0.1:{free_port()}"
    environ = {"NOTIFY_SOCKET": str(manager.path)}
    async with running_daemon(address=address, environ=environ) as daemon:
        at = await manager.wait("READY=1\n")
        assert at == 1
        at = await manager.wait("STATUS=disconnected, next attempt at 2")
        assert "tcp_refused" in manager.heard[at - 1]
        at = len(manager.listen())
        assert (await daemon.post("/api/reload"))[0] == 200
        at = await manager.wait("RELOADING=1\nMONOTONIC_USEC=", at)
        at = await manager.wait("READY=1\n", at)
        (daemon.folder / "castrayd.toml").write_text("[ray]\naddress = 5\n")
        assert (await daemon.post("/api/reload"))[0] == 400
        at = await manager.wait("READY=1\n", await manager.wait("RELOADING=1\n", at))
        (daemon.folder / "castrayd.toml").write_text("")
        daemon.process.send_signal(signal.SIGHUP)
        at = await manager.wait("READY=1\n", await manager.wait("RELOADING=1\n", at))
        await daemon.post("/api/pause")
        at = await manager.wait("STATUS=disconnected, paused by uid 0", at)
        await daemon.stop()
        at = await manager.wait("STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=15000000", at)
        assert [text for text in manager.listen()[at:] if text.startswith("READY")] == []
        for pid in daemon.children():
            raise AssertionError(pid)


async def test_pings_stop_with_the_daemon(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    async with running_daemon(address=f"127.0.0.1:{free_port()}", environ=environ) as daemon:
        at = await manager.wait("WATCHDOG=1")
        at = await manager.wait("WATCHDOG=1", at)
        os.kill(daemon.pid, signal.SIGSTOP)
        await anyio.sleep(0.2)
        at = len(manager.listen())
        await anyio.sleep(1)
        assert "WATCHDOG=1" not in manager.listen()[at:]
        os.kill(daemon.pid, signal.SIGCONT)
        await manager.wait("WATCHDOG=1", at)


async def test_pings_stop_with_the_supervisor_alone(manager: Manager) -> None:
    """All else goes on, the control API too: what must move does not."""
    (manager.path.parent / "sitecustomize.py").write_text(_BLOCK)
    block = manager.path.parent / "block"
    environ = {
        "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000", "BLOCK": str(block),
        "PYTHONPATH": f"{manager.path.parent}:{os.getcwd()}",
    }  # fmt: skip
    async with running_daemon(address=f"127.0.0.1:{free_port()}", environ=environ) as daemon:
        await manager.wait("WATCHDOG=1")
        block.touch()
        await anyio.sleep(0.3)
        at = len(manager.listen())
        await anyio.sleep(1)
        assert "WATCHDOG=1" not in manager.listen()[at:]
        await daemon.get("/api/health/live")
        block.unlink()
        await manager.wait("WATCHDOG=1", at)


_BLOCK = """
import os
import anyio
from castrayd.supervisor.supervisor import Supervisor
made = Supervisor.__init__
def init(self, *arguments, **named):
    made(self, *arguments, **named)
    receive = self._receive.receive
    async def blocked():
        while os.path.exists(os.environ["BLOCK"]):
            await anyio.sleep(0.01)
        return await receive()
    self._receive.receive = blocked
Supervisor.__init__ = init
"""


async def test_pings_stop_with_the_control_socket_alone(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    async with running_daemon(address=f"127.0.0.1:{free_port()}", environ=environ) as daemon:
        await manager.wait("WATCHDOG=1")
        daemon.socket.rename(daemon.folder / "away")
        await anyio.sleep(0.3)
        at = len(manager.listen())
        await anyio.sleep(1)
        assert "WATCHDOG=1" not in manager.listen()[at:]
        (daemon.folder / "away").rename(daemon.socket)
        await manager.wait("WATCHDOG=1", at)
