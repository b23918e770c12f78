"""Somebody sets the wall clock by an hour: what is waited for, and in which order, is as before."""

import itertools
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused
from tests.support.wall_clock import WallClock

pytestmark = pytest.mark.lab

ATTEMPT = "castray.connection.attempt"
CONFIG = "[backoff]\nmax_s = 2\n"
GAP_S, LONGEST_S = 1.0, 2.0
SLOW_S = 1.5
"""What a busy machine may add."""


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def _tries(daemon: Daemon, more: int) -> None:
    """Wait for so many further attempts, none of which may come late, nor all at once."""
    for _ in range(more):
        number, began_s = (await daemon.status())["attempt"]["number"], time.monotonic()
        await daemon.wait_status("another", lambda s, n=number: s["attempt"]["number"] > n, 10)
        assert time.monotonic() - began_s < LONGEST_S + SLOW_S


async def _shows(daemon: Daemon, wall: WallClock) -> None:
    """Check that times are shown by the clock as it is now, and seconds are those that passed."""
    status = await daemon.wait_status("a wait", lambda s: (s["next_retry_in_s"] or 0.0) > 0.3)
    assert status["next_retry_in_s"] <= LONGEST_S
    assert abs(_moment(status["next_retry_at"]) - wall.now() - status["next_retry_in_s"]) < SLOW_S
    assert abs(_moment(status["since"]) + status["state_s"] - wall.now()) < SLOW_S
    held_s = sum(state["total_s"] for state in status["states"].values())
    assert abs(held_s - status["daemon"]["uptime_s"]) < SLOW_S


def _attempts(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("event.name") == ATTEMPT]


def _in_order(lines: list[dict[str, Any]]) -> None:
    seqs = [line["event.sequence"] for line in lines if "event.sequence" in line]
    numbers = [line["castray.attempt.number"] for line in _attempts(lines)]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert numbers == list(range(1, len(numbers) + 1))


async def test_clock_that_is_set_by_an_hour_disturbs_nothing(tmp_path: Path) -> None:
    """Forward, and two hours back: durations, retries and order are those of another clock."""
    wall = WallClock(tmp_path)
    async with (
        refused() as address,
        running_daemon(address=address, config=CONFIG, environ=wall.environ) as daemon,
    ):
        began_s = time.monotonic()
        await daemon.wait_event(ATTEMPT, lambda _: True)
        await _tries(daemon, 2)
        for off_s in (3600, -3600):
            wall.step(off_s)
            await _tries(daemon, 3)
            await _shows(daemon, wall)
        passed_s = time.monotonic() - began_s
        events = await daemon.events(ATTEMPT)
        status = await daemon.status()
        lines = daemon.logs()

    ats = [_moment(event["at"]) for event in events]
    steps = [later - earlier for earlier, later in itertools.pairwise(ats)]
    assert [round(step_s / 3600) for step_s in steps if abs(step_s) > 60] == [1, -2]
    assert all(0 < event["duration_s"] < SLOW_S for event in events)
    assert len(events) <= passed_s / GAP_S + 1
    assert abs(status["daemon"]["uptime_s"] - passed_s) < SLOW_S * 2
    _in_order(lines)
    waits_s = [line["castray.backoff.delay_s"] for line in _attempts(lines)]
    assert 0.5 * GAP_S < min(waits_s) <= max(waits_s) <= LONGEST_S
    most_s = [line["castray.backoff.ceiling_s"] for line in _attempts(lines)]
    assert most_s == [0.0, 1.0, *[LONGEST_S] * (len(most_s) - 2)]


async def test_life_after_a_step_back_goes_on_in_order(tmp_path: Path) -> None:
    """Started anew an hour earlier than it was stopped: numbers rise, and history is kept."""
    wall = WallClock(tmp_path)
    async with (
        refused() as address,
        running_daemon(address=address, config=CONFIG, environ=wall.environ) as daemon,
    ):
        await daemon.wait_event(ATTEMPT, lambda _: True)
        await daemon.stop()
        wall.step(-3600)
        daemon.launch()
        await daemon.answers()
        await daemon.wait_status("an attempt", lambda s: s["attempt"] and s["attempt"]["outcome"])
        events = await daemon.events(ATTEMPT)

    seqs, ats = [e["seq"] for e in events], [_moment(e["at"]) for e in events]
    assert seqs == sorted(set(seqs))
    assert ats[-1] < ats[0] - 3000
