"""The cluster that a session starts: usable while it lives, and taken away whole."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import running_daemon
from tests.support.processes import kill


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the cluster's sockets lie deep below it."""
    path = Path(tempfile.mkdtemp(prefix="cl-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.mark.ray
@pytest.mark.lab
async def test_local_cluster_is_taken_away(folder: Path) -> None:
    """A local start is connected and usable, and is gone with all it left when the daemon stops."""
    environ = {"TMPDIR": str(folder)}
    async with running_daemon("--allow-local-start", isolated=True, environ=environ) as daemon:
        status = await daemon.wait_state("connected", 40)
        assert status["address"] == {"url": "local", "source": "local", "mode": "local"}
        assert status["cluster"]["nodes_alive"] == 1
        await daemon.stop()
        assert list(folder.iterdir()) == []


@pytest.mark.ray
@pytest.mark.lab
async def test_local_cluster_dies_with_the_daemon_and_with_its_session(folder: Path) -> None:
    """SIGKILL of the session: a new one; SIGKILL of the daemon: nothing left within 5 s."""
    environ = {"TMPDIR": str(folder)}
    async with running_daemon("--allow-local-start", isolated=True, environ=environ) as daemon:
        before = await daemon.wait_state("connected", 40)
        for pid, line in daemon.children().items():
            if "castrayd.driver.main" in line:
                kill(pid)
        after = await daemon.wait_status(
            "another session",
            lambda s: s["state"] == "connected" and s["session"]["pid"] != before["session"]["pid"],
            40,
        )
        assert after["cluster"]["id"] != before["cluster"]["id"]
        daemon.signal(signal.SIGKILL)
        await daemon.exit_code()
        await daemon.nothing_left(5.0)
        daemon._process = None
        assert list(folder.iterdir()) == []
