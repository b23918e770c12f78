"""What the daemon does when a part of the attachment is killed or stopped under it."""

import os
import signal
import time
from datetime import datetime
from typing import Any

import anyio
import pytest

from tests.support.daemon import running_daemon
from tests.support.processes import kill
from tests.support.ray import RayHead, ray_head

pytestmark = pytest.mark.ray


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


async def test_session_killed_is_typed_and_replaced(head: RayHead) -> None:
    """A session that is SIGKILLed is named with its signal, and a new one attaches at once."""
    async with running_daemon(address=head.address) as daemon:
        before = await daemon.wait_state("connected")
        kill(before["session"]["pid"])
        after = await daemon.another_session(before)
        lost = await daemon.wait_event("castray.connection.lost", lambda _: True)

        assert lost["error"]["type"] == "session_exited"
        assert lost["error"]["code"] == "SIGKILL"
        assert after["attempt"]["trigger"] == "session_lost"
        assert after["cluster"]["id"] == before["cluster"]["id"]


async def test_session_stopped_is_given_up_after_the_grace(head: RayHead) -> None:
    """A session that is SIGSTOPped degrades, and after the grace another takes its place."""
    config = "[checks]\ngrace_s = 3\n"
    async with running_daemon(address=head.address, config=config) as daemon:
        before = await daemon.wait_state("connected")
        os.kill(before["session"]["pid"], signal.SIGSTOP)
        degraded = await daemon.wait_state("degraded", 8)
        after = await daemon.another_session(before)

        assert degraded["reasons"][0]["type"] == "session_unresponsive"
        assert before["session"]["pid"] not in daemon.children()
        assert after["session"]["standby"] is True


@pytest.mark.timeout(180)
async def test_daemon_outlives_the_minute_after_which_ray_ends_a_process() -> None:
    """Ray ends a process 60 s after its GCS is gone; the daemon answers each second for 95 s."""
    with ray_head() as head:
        async with running_daemon(address=head.address) as daemon:
            await daemon.wait_state("connected")
            head.kill_gcs()
            for _ in range(95):
                began = anyio.current_time()
                status = await daemon.status()
                assert anyio.current_time() - began < 1.0
                await anyio.sleep(1)
            assert status["state"] in {"disconnected", "discovering"}
            assert [s for s in await daemon.states() if s != "discovering"][:3] == [
                "connected", "degraded", "disconnected",
            ]  # fmt: skip


async def test_raylet_killed_degrades_at_once_and_another_is_used() -> None:
    """Loss of the raylet shows at once; a new session uses the other raylet of this host."""
    with ray_head() as head:
        head.start_raylet()
        async with running_daemon(address=head.address) as daemon:
            before = await daemon.wait_status(
                "two nodes", lambda s: s["cluster"] and s["cluster"]["nodes_alive"] == 2
            )
            killed = time.time()
            head.kill_raylet()
            degraded = await daemon.wait_event(
                "castray.state.changed", lambda e: e["to"] == "degraded"
            )
            assert "local_node_lost" in [reason["type"] for reason in degraded["reasons"]]
            assert _at(degraded) - killed < 0.15  # 50 ms are promised; measured in tests/bench
            after = await daemon.another_session(before, 60)
            assert after["cluster"]["id"] == before["cluster"]["id"]


async def test_no_raylet_left_is_no_local_node_until_there_is_one() -> None:
    """Without a raylet here the daemon says so, and attaches when the head is back with one."""
    with ray_head() as head:
        config = "[deadlines]\nlocal_node_s = 2\n[backoff]\ninitial_s = 60\n"
        async with running_daemon(address=head.address, config=config) as daemon:
            before = await daemon.wait_state("connected")
            head.kill_raylet()
            down = await daemon.wait_status(
                "no_local_node", lambda s: (s["error"] or {}).get("type") == "no_local_node"
            )
            assert "ray start --address=" in down["error"]["hint"]
            head.kill()
            head.start(wait=False)
            await daemon.another_session(before, 60)


async def test_head_replaced_within_a_second_is_never_taken_for_the_old_one() -> None:
    """A new head at once at the same address: another cluster, and no `connected` in between."""
    with ray_head() as head:
        async with running_daemon(address=head.address) as daemon:
            before = await daemon.wait_state("connected")
            head.kill()
            head.start(wait=False)
            after = await daemon.wait_status(
                "the new cluster",
                lambda s: (
                    s["state"] == "connected" and s["cluster"]["id"] != before["cluster"]["id"]
                ),
                60,
            )
            states = await daemon.states()

            assert after["session"]["pid"] != before["session"]["pid"]
            assert states.count("connected") == 2


async def test_gcs_restarted_within_a_second_is_another_cluster() -> None:
    """A GCS that is back at once without its memory looks healthy: its id is asked first."""
    with ray_head() as head:
        config = "[deadlines]\nlocal_node_s = 1\n"
        async with running_daemon(address=head.address, config=config) as daemon:
            before = await daemon.wait_state("connected")
            head.restart_gcs()
            lost = await daemon.wait_event("castray.connection.lost", lambda _: True)
            down = await daemon.wait_status(
                "no raylet of the new cluster",
                lambda s: (s["error"] or {}).get("type") == "no_local_node",
            )

            assert lost["error"]["type"] == "cluster_replaced"
            assert before["cluster"]["id"] in lost["error"]["message"]
            assert before["cluster"]["id"] not in down["error"]["message"]
            head.kill()
            head.start(wait=False)
            after = await daemon.wait_state("connected", 60)
            assert after["cluster"]["id"] != before["cluster"]["id"]
            assert (await daemon.states()).count("connected") == 2


async def test_raylet_frozen_before_init_is_init_timeout_then_session_exited() -> None:
    """A raylet that hangs makes ray.init hang: cut off in time; a session killed there is named."""
    with ray_head() as head:
        config = "[deadlines]\ninit_s = 4\n[backoff]\nmax_s = 1\n"
        raylet = head.raylet
        assert raylet is not None
        os.kill(raylet.pid, signal.SIGSTOP)
        async with running_daemon(address=head.address, config=config) as daemon:
            status = await daemon.wait_status("a failure", lambda s: s["error"] is not None, 20)
            assert (status["error"]["type"], status["error"]["phase"]) == ("init_timeout", "init")
            running = await daemon.wait_status(
                "init under way",
                lambda s: s["state"] == "discovering" and "spawn" in s["attempt"]["phases"],
            )
            for pid, line in daemon.children().items():
                if "castrayd.driver" in line:
                    kill(pid)
            ended = await daemon.wait_event(
                "castray.connection.attempt", lambda e: e["id"] == running["attempt"]["id"]
            )
            assert ended["error"]["type"] == "session_exited"
            assert ended["error"]["phase"] == "init"
            assert ended["error"]["code"] == "SIGKILL"
            os.kill(raylet.pid, signal.SIGCONT)
            await daemon.wait_state("connected", 40)
