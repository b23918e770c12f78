"""A bug of ours costs the session, never the daemon."""

import random
from typing import Any

import anyio
import pytest

from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.snapshot import Snapshot
from castrayd.supervisor.connection import Connection
from castrayd.supervisor.perform import Performer
from castrayd.supervisor.supervisor import ClosedError, Supervisor
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import EventLog
from castrayd.telemetry.publisher import Publisher


def _supervisor() -> Supervisor:
    clock = Clock()
    snapshot = Snapshot("r", since_s=clock.monotonic())
    publisher = Publisher(EventLog("s", 1), clock)
    connection = Connection(cli_address="127.0.0.1:9")
    return Supervisor(connection, snapshot, publisher, clock, rng=random.Random(1))


async def test_bug_in_a_command_is_told_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is disconnected with `internal`, and the next attempt comes."""
    performed: list[c.Command] = []
    perform = Performer.perform

    async def faulty(self: Performer, command: c.Command, post: Any) -> e.Event:
        performed.append(command)
        if isinstance(command, c.RunAttempt) and len(performed) == 1:
            raise ZeroDivisionError("a bug")
        if isinstance(command, c.RunAttempt):
            await anyio.sleep_forever()
        return await perform(self, command, post)

    monkeypatch.setattr(Performer, "perform", faulty)
    supervisor = _supervisor()
    async with anyio.create_task_group() as tasks:
        await tasks.start(supervisor.run)
        with anyio.fail_after(3):
            while len(performed) < 3:
                await anyio.sleep(0.01)
        error = supervisor.snapshot.error
        supervisor.post(e.StopRequested(supervisor._now()))

    assert [c.RunAttempt, c.EndSession, c.RunAttempt] == [type(one) for one in performed[:3]]
    assert error is not None
    assert error.type == "internal"
    assert "a bug" in error.message


async def test_request_after_the_end_is_refused() -> None:
    """Nobody waits for an answer that cannot come."""
    supervisor = _supervisor()
    async with anyio.create_task_group() as tasks:
        await tasks.start(supervisor.run)
        supervisor.post(e.StopRequested(supervisor._now()))
    with pytest.raises(ClosedError):
        await supervisor.ask(e.ResumeRequested(supervisor._now()))
