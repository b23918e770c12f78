"""The sequences of requests that must hold, on the running daemon."""

import signal
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from tests.support.daemon import running_daemon, slow_python, spawning
from tests.support.peers import refused, silent
from tests.support.processes import kill
from tests.support.ray import RayHead, ray_head


async def test_reconnect_while_paused_is_refused() -> None:
    """Paused means no attempt: 409, and none begins."""
    async with refused() as address, running_daemon(address=address) as daemon:
        await daemon.wait_status("an attempt", lambda s: s["error"] is not None)
        assert await daemon.post("/api/pause", {"reason": "a test"}) == (200, {"desired": "paused"})
        before = len(await daemon.events("castray.connection.attempt"))
        code, body = await daemon.post("/api/reconnect")
        await anyio.sleep(1.5)
        status = await daemon.status()

        assert (code, body["error"]["type"]) == (409, "paused")
        assert before == len(await daemon.events("castray.connection.attempt"))
        assert (status["desired"], status["desired_reason"]) == ("paused", "a test")
        assert status["next_retry_at"] is None
        assert not daemon.children()


async def test_pause_outlives_a_restart_and_resume_ends_it() -> None:
    """What an operator wants is kept over a restart of the daemon, with who and why."""
    async with refused() as address, running_daemon(address=address) as daemon:
        await daemon.post("/api/pause", {"reason": "maintenance"})
        await daemon.stop()
        daemon.launch()
        await daemon.answers()
        status = await daemon.status()
        assert (status["desired"], status["desired_by"]) == ("paused", "uid 0")
        assert status["desired_reason"] == "maintenance"
        assert status["attempt"] is None  # none in this life
        before = {event["seq"] for event in await daemon.events("castray.connection.attempt")}

        assert await daemon.post("/api/resume") == (200, {"desired": "up"})
        attempt = await daemon.wait_event(
            "castray.connection.attempt", lambda event: event["seq"] not in before
        )
        assert attempt["trigger"] == "resume"


async def test_reconnect_joins_the_attempt_under_way_or_replaces_it() -> None:
    """Without an address it joins; with another one the running attempt is cancelled."""
    async with silent() as address, refused() as other, running_daemon(address=address) as daemon:
        running = (await daemon.wait_state("discovering"))["attempt"]
        assert await daemon.post("/api/reconnect") == (
            202,
            {"attempt_id": running["id"], "joined": True},
        )
        code, reply = await daemon.post("/api/reconnect", {"address": other})
        ended = await daemon.wait_event(
            "castray.connection.attempt", lambda e: e["id"] == reply["attempt_id"]
        )
        cancelled = await daemon.wait_event(
            "castray.connection.attempt", lambda e: e["id"] == running["id"]
        )

        assert (code, reply["joined"]) == (202, False)
        assert cancelled["outcome"] == "cancelled"
        assert (await daemon.get(f"/api/attempts/{running['id']}"))["outcome"] == "cancelled"
        assert ended["error"]["type"] == "tcp_refused"
        assert ended["candidates"][0]["address"] == other
        assert ended["candidates"][0]["source"] == "request"
        status = await daemon.wait_status(
            "the stored address again", lambda s: s["attempt"]["id"] != reply["attempt_id"]
        )
        assert status["attempt"]["candidates"][0]["address"] == address


async def test_pause_while_discovering_cancels_the_attempt() -> None:
    """The attempt ends as cancelled."""
    async with silent() as address, running_daemon(address=address) as daemon:
        running = (await daemon.wait_state("discovering"))["attempt"]
        await daemon.post("/api/pause")
        cancelled = await daemon.wait_event(
            "castray.connection.attempt", lambda e: e["id"] == running["id"]
        )
        await daemon.wait_state("disconnected")

        assert cancelled["outcome"] == "cancelled"


@pytest.mark.ray
async def test_pause_while_a_session_is_spawned_leaves_none(head: RayHead, tmp_path: Path) -> None:
    """Killed and reaped, with what it has started itself."""
    config = f'[session]\npython = "{slow_python(tmp_path)}"\n'
    async with running_daemon(address=head.address, config=config) as daemon:
        await spawning(daemon, "slow")
        await daemon.post("/api/pause")
        with anyio.fail_after(2):
            while daemon.children():
                await anyio.sleep(0.02)
        assert (await daemon.status())["attempt"]["outcome"] == "cancelled"


async def test_two_hundred_reconnects_at_once_are_one_attempt() -> None:
    """One new attempt; each answer is 202 with its id, or 429 with Retry-After; none is lost."""
    config = "[backoff]\ninitial_s = 60\nmax_s = 60\n[deadlines]\nhealth_s = 3\n"
    async with silent() as address, running_daemon(address=address, config=config) as daemon:
        await daemon.wait_status("a long wait", lambda s: (s["next_retry_in_s"] or 0) > 10, 30)
        before = await daemon.get("/api/attempts")
        replies = []

        async def ask() -> None:
            replies.append(await daemon.post("/api/reconnect"))

        began_s = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(ask)
        took_s = time.monotonic() - began_s
        after = await daemon.get("/api/attempts")

        codes = Counter(code for code, _ in replies)
        ids = {body["attempt_id"] for code, body in replies if code == 202}
        assert codes.keys() == {202, 429}, replies
        assert sum(codes.values()) == 200
        assert 5 <= codes[202] <= 5 + took_s + 1
        headers = await daemon.headers("POST", "/api/reconnect", {})
        assert int(headers["Retry-After"]) >= 1
        assert len(ids) == 1
        assert len(after["attempts"]) == len(before["attempts"]) + 1
        assert after["attempts"][0]["trigger"] == "manual"


@pytest.mark.ray
async def test_reconnect_while_connected_breaks_then_makes(head: RayHead) -> None:
    """Never two sessions: the old one is gone before the new one attaches."""
    async with running_daemon(address=head.address) as daemon:
        before = await daemon.wait_state("connected")
        code, reply = await daemon.post("/api/reconnect", {"reason": "a test"})
        promised = await daemon.get(f"/api/attempts/{reply['attempt_id']}")
        assert promised["trigger"] == "manual"  # also before the old session has ended
        after = await daemon.wait_status(
            "the new attempt",
            lambda s: s["state"] == "connected" and s["attempt"]["id"] == reply["attempt_id"],
        )
        states = await daemon.states()

        assert (code, reply["joined"]) == (202, False)
        assert after["session"]["pid"] != before["session"]["pid"]
        assert before["session"]["pid"] not in daemon.children()
        assert states[-3:] == ["disconnected", "discovering", "connected"]


@pytest.mark.ray
async def test_reconnect_while_degraded_breaks_then_makes(head: RayHead) -> None:
    """No grace is waited for: the session goes at once, and the attempt tells what it meets."""
    gcs = head.gcs_pid
    assert gcs is not None
    async with running_daemon(address=head.address) as daemon:
        before = await daemon.wait_state("connected")
        kill(gcs, signal.SIGSTOP)
        try:
            await daemon.wait_state("degraded", 8)
            code, reply = await daemon.post("/api/reconnect")
            assert (code, reply["joined"]) == (202, False)
            status = await daemon.wait_status(
                "its end", lambda s: (s["error"] or {}).get("type") == "health_timeout"
            )
            assert status["session"] is None
            assert before["session"]["pid"] not in daemon.children()
        finally:
            kill(gcs, signal.SIGCONT)
        await daemon.another_session(before)


@pytest.mark.ray
async def test_pause_ends_the_session_and_resume_brings_one_back(head: RayHead) -> None:
    """Pausing leaves no child; resuming attaches with trigger `resume`."""
    async with running_daemon(address=head.address) as daemon:
        await daemon.wait_state("connected")
        await daemon.post("/api/pause")
        await daemon.wait_state("disconnected")
        with anyio.fail_after(2):
            while daemon.children():
                await anyio.sleep(0.02)
        await daemon.post("/api/resume")
        status = await daemon.wait_state("connected")

        assert status["attempt"]["trigger"] == "resume"


@pytest.mark.ray
async def test_reload_keeps_the_session_or_renews_it(head: RayHead) -> None:
    """What does not touch the attachment leaves it; another namespace makes a new session."""
    base = f'[ray]\naddress = "{head.address}"\n'
    async with running_daemon(config=base) as daemon:
        before = await daemon.wait_state("connected")
        path = daemon.folder / "castrayd.toml"

        path.write_text(base + "min_nodes = 1\n[checks]\ninterval_s = 3.0\n[backoff]\nmax_s = 30\n")
        code, reply = await daemon.post("/api/reload")
        assert code == 200
        assert (sorted(reply["changed"]), reply["reconnect"]) == (
            ["backoff.max_s", "checks.interval_s"],
            False,
        )
        assert (await daemon.status())["session"]["pid"] == before["session"]["pid"]

        path.write_text("[ray]\nadress = 'x:1'\n[log]\nlevel = 'loud'\n")
        code, reply = await daemon.post("/api/reload")
        assert (code, reply["error"]["type"]) == (400, "bad_request")
        assert "ray.adress" in reply["error"]["message"]
        assert "log.level" in reply["error"]["message"]
        assert (await daemon.status())["session"]["pid"] == before["session"]["pid"]

        path.write_text(base + 'namespace = "other"\n[control]\nread_groups = ["root"]\n')
        code, reply = await daemon.post("/api/reload")
        assert (code, reply["reconnect"]) == (200, True)
        assert reply["restart_required"] == ["control.read_groups"]
        after = await daemon.another_session(before)
        assert after["attempt"]["trigger"] == "config_reload"
        assert after["namespace"] == "other"


@pytest.mark.ray
async def test_sighup_reloads_and_moves_to_another_cluster(head: RayHead) -> None:
    """SIGHUP with another address: the session moves; with a bad file nothing changes."""
    with ray_head() as second:
        async with running_daemon(config=f'[ray]\naddress = "{head.address}"\n') as daemon:
            before = await daemon.wait_state("connected")
            path = daemon.folder / "castrayd.toml"
            path.write_text("no toml")
            daemon.signal(signal.SIGHUP)
            refusal = await daemon.wait_event("castray.config.reloaded", lambda _: True)
            assert refusal["error"]
            assert (await daemon.status())["session"]["pid"] == before["session"]["pid"]

            path.write_text(f'[ray]\naddress = "{second.address}"\n')
            daemon.signal(signal.SIGHUP)
            after = await daemon.wait_status(
                "the other cluster",
                lambda s: (
                    s["state"] == "connected" and s["cluster"]["id"] != before["cluster"]["id"]
                ),
            )
            assert after["address"]["url"] == second.address


@pytest.mark.ray
async def test_fewer_nodes_than_wanted_degrade_and_cost_nothing(head: RayHead) -> None:
    """A service reason shows after settling, and the session stays."""
    config = "[ray]\nmin_nodes = 2\n[casting]\nsettle_s = 1\n"
    async with running_daemon(address=head.address, config=config) as daemon:
        before = await daemon.wait_state("connected")
        degraded = await daemon.wait_state("degraded")

        assert degraded["reasons"][0]["type"] == "nodes_below_minimum"
        assert degraded["session"]["pid"] == before["session"]["pid"]
        code, body = await daemon.ask("GET", "/api/health/ready?verbose=true")
        assert (code, body["state"]) == (503, "degraded")
        assert "nodes_below_minimum" in body["checks"]
