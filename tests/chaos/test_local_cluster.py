"""The cluster that a session starts: usable while it lives, and taken away whole."""

import os
import signal

import pytest

from tests.support.daemon import running_daemon
from tests.support.processes import kill


@pytest.mark.ray
async def test_local_cluster_is_taken_away() -> None:
    """A local start is connected and usable, and is gone with all it left when the daemon stops."""
    async with running_daemon("--allow-local-start", environ={"TMPDIR": "/tmp/crl"}) as daemon:
        status = await daemon.wait_state("connected", 40)
        assert status["address"] == {"url": "local", "source": "local", "mode": "local"}
        assert status["cluster"]["nodes_alive"] == 1
        await daemon.stop()
        assert not os.path.exists("/tmp/crl/ray")


@pytest.mark.ray
async def test_local_cluster_dies_with_the_daemon_and_with_its_session() -> None:
    """SIGKILL of the session: a new one; SIGKILL of the daemon: nothing left within 5 s."""
    async with running_daemon("--allow-local-start", environ={"TMPDIR": "/tmp/crm"}) as daemon:
        before = await daemon.wait_state("connected", 40)
        kill(before["session"]["pid"])
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
        assert not os.path.exists("/tmp/crm/ray")
