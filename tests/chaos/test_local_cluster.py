"""The cluster that a session starts: usable while it lives, and taken away whole."""

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.processes import MARK, kill

_WORK = """
import os, sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


async def _work_done(daemon: Daemon) -> str:
    """Run a task on its cluster, as another driver in its process table would."""
    raylet = next(line for line in daemon.ray_processes() if "/raylet/raylet" in line)
    found = re.search(r"--gcs-address=(\S+)", raylet)
    assert found is not None
    token = Path(daemon.folder, ".ray", "auth_token").read_text()
    enter = ["nsenter", "-t", str(daemon.pid), "-m", "-p"]
    environ = {
        **os.environ,
        MARK: daemon.mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token.strip(),
    }
    command = [*enter, sys.executable, "-c", _WORK, found[1]]
    with anyio.fail_after(40):
        done = await anyio.run_process(command, check=False, env=environ)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


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
        await anyio.sleep(1.0)
        assert (await daemon.status())["state"] == "connected"  # its own token is known here
        assert await _work_done(daemon) == "42"
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
        after = await daemon.another_session(before, 40)
        assert after["cluster"]["id"] != before["cluster"]["id"]
        daemon.signal(signal.SIGKILL)
        await daemon.nothing_left(5.0)
        daemon.forget()
        assert list(folder.iterdir()) == []


@pytest.mark.ray
@pytest.mark.parametrize("after_s", [0.0, 1.0])
async def test_sigterm_while_a_local_cluster_starts(folder: Path, after_s: float) -> None:
    """No waiting for what is to be thrown away, and its folder goes, however far it has come."""
    environ = {"TMPDIR": str(folder)}
    async with running_daemon("--allow-local-start", environ=environ) as daemon:
        with anyio.fail_after(10):
            while not list(folder.glob("ray/session_2*")):
                await anyio.sleep(0.01)
        await anyio.sleep(after_s)
        began_s = time.monotonic()
        await daemon.stop()
        assert time.monotonic() - began_s < 2.5
    assert list(folder.glob("ray/session_*")) == []
