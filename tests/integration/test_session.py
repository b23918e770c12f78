"""A session as the supervisor uses it: started, asked, ended, with nothing left behind."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from castrayd.core.candidates import parse_address
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Phase
from castrayd.session.launch import LaunchSpec, launch_spec
from castrayd.session.session import Session, SessionLine
from castrayd.session.standby import Standby
from tests.support.processes import MARK, marked, new_mark
from tests.support.ray import RayHead, ray_head

SPAWN_S = 20.0


def _spec(mark: str, python: str | None = None, token: str | None = None) -> LaunchSpec:
    environ = {**os.environ, MARK: mark, "NOTIFY_SOCKET": "/nowhere", "RAY_ADDRESS": "auto"}
    return launch_spec(python, token, environ, mode=Mode.DRIVER)


@asynccontextmanager
async def _session(spec: LaunchSpec) -> AsyncIterator[Session]:
    lines: list[SessionLine] = []
    session = Session(spec, lines.append)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(SPAWN_S):
            await tasks.start(session.run)
        yield session
        await session.close()


async def _attach(session: Session, head: RayHead, timeout_s: float = 20) -> Any:
    return await session.attach(
        parse_address(head.address),
        namespace="test",
        env_vars={},
        working_dir=None,
        timeout_s=timeout_s,
    )


async def test_spawned_session_is_apart_and_scrubbed() -> None:
    """It leads its own group, sits in the root, and has nothing of ours in its environment."""
    mark = new_mark()
    async with _session(_spec(mark)) as session:
        environ = Path(f"/proc/{session.pid}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0].decode() for entry in environ}

        assert os.getpgid(session.pid) == session.pid
        assert os.readlink(f"/proc/{session.pid}/cwd") == "/"
        assert "NOTIFY_SOCKET" not in names
        assert "RAY_ADDRESS" not in names
        assert b"RAY_ENABLE_AUTO_CONNECT=0" in environ
        assert session.ray
        assert ".".join(map(str, sys.version_info[:3])) == session.python
    assert marked(mark) == {}


@pytest.mark.parametrize("address", [None, "", "auto", "local"])
async def test_addresses_that_could_start_a_cluster_are_refused(address: str | None) -> None:
    """Whatever the daemon were to ask, the session starts no cluster unless in local mode."""
    mark = new_mark()
    async with _session(_spec(mark)) as session:
        with pytest.raises(AttachError) as caught:
            await session._ask(
                Phase.INIT, "attach", address=address, mode="driver", namespace="n", env_vars={},
                working_dir=None,
            )  # fmt: skip
        assert caught.value.fault.type is ErrorType.ADDRESS_INVALID
        assert list(marked(mark)) == [session.pid]


async def test_cancelled_spawn_leaves_nothing() -> None:
    """However early the caller gives up, the child is gone when it has."""
    for delay_s in (0.0, 0.01, 0.05, 0.15):
        mark = new_mark()
        session = Session(_spec(mark), lambda _line: None)
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(delay_s) as scope:
                await tasks.start(session.run)
            await session.close()
            assert scope.cancelled_caught
            assert marked(mark) == {}


@pytest.mark.parametrize(
    "script",
    [
        "exit 3",
        "printf garbage-that-is-no-frame >&$4; sleep 5",
        r"printf '\000\000\000\014{\042hello\042:99}' >&$4; sleep 5",
    ],
    ids=["exits", "garbage", "other protocol"],
)
async def test_child_that_is_no_session_is_a_typed_fault(tmp_path: Path, script: str) -> None:
    """A broken greeting of any kind is `session_spawn_failed`, at once, and leaves nothing."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)
    mark = new_mark()
    session = Session(_spec(mark, str(python)), lambda _line: None)
    async with anyio.create_task_group() as tasks:
        with pytest.raises(AttachError) as caught, anyio.fail_after(3):
            await tasks.start(session.run)

    assert caught.value.fault.type is ErrorType.SESSION_SPAWN_FAILED
    assert marked(mark) == {}


_ODD = """#!{python}
import json, os, struct, sys, time
wire = int(sys.argv[4])
def say(data):
    os.write(wire, struct.pack(">I", len(data)) + data)
say(json.dumps({{"hello": 1, "python": "3"}}).encode())
asked = os.read(wire, 4096)
say(json.dumps({{"id": 1, "ok": {{"ray": "2"}}}}).encode())
os.read(wire, 4096)
say(b"[" * 100000)
time.sleep(30)
"""


async def test_bug_of_ours_ends_its_session_alone(tmp_path: Path) -> None:
    """A frame nested beyond reason is no ValueError: the session goes, whoever owns it stays."""
    python = tmp_path / "python"
    python.write_text(_ODD.format(python=sys.executable))
    python.chmod(0o755)
    mark = new_mark()
    session = Session(_spec(mark, str(python)), lambda _line: None)
    async with anyio.create_task_group() as tasks:
        await tasks.start(session.run)
        with pytest.raises(AttachError), anyio.fail_after(5):
            await session.ping(4.0)
        assert (await session.wait_exit()).type is ErrorType.INTERNAL

    assert marked(mark) == {}


@pytest.mark.ray
async def test_attached_session_answers_and_ends(head: RayHead) -> None:
    """It joins the cluster that the head is, maps it, answers, and is gone after `close`."""
    mark = new_mark()
    async with _session(_spec(mark)) as session:
        facts = await _attach(session, head)
        nodes = await session.nodes(10)
        await session.ping(2)
        await session.heartbeat(2)

        raylet = head.raylet
        assert raylet is not None
        assert facts.cluster_id == raylet.cluster_id
        assert facts.node_id == raylet.node_id
        assert [node.node_id for node in nodes.nodes] == [raylet.node_id]
        assert nodes.nodes[0].port > 0
        assert nodes.available is not None
        began = anyio.current_time()
        await session.close()
        await session.close()
        assert anyio.current_time() - began < 1.0
        with pytest.raises(AttachError) as caught:
            await session.ping(1)
        assert caught.value.fault.type is ErrorType.SESSION_EXITED
    assert marked(mark) == {}


async def test_standby_is_handed_over_only_when_it_fits() -> None:
    """One that was started with another token is thrown away, not used."""
    mark = new_mark()
    async with anyio.create_task_group() as tasks:
        standby = Standby(tasks, lambda spec: Session(spec, lambda _line: None))
        standby.ensure(_spec(mark))
        with anyio.fail_after(SPAWN_S):
            while not marked(mark):
                await anyio.sleep(0.02)
            assert await standby.take(_spec(mark, token="new")) is None
        assert marked(mark) == {}

        standby.ensure(_spec(mark))
        standby.ensure(_spec(mark))
        with anyio.fail_after(SPAWN_S):
            session = await standby.take(_spec(mark))
        assert session is not None
        assert session.ray
        assert list(marked(mark)) == [session.pid]
        assert await standby.take(_spec(mark)) is None
        await session.close()
    assert marked(mark) == {}


async def test_standby_of_a_bad_interpreter_is_nobodys_bug() -> None:
    """A standby that cannot start is simply not there; the attempt itself will say why."""
    async with anyio.create_task_group() as tasks:
        standby = Standby(tasks, lambda spec: Session(spec, lambda _line: None))
        spec = replace(_spec(new_mark()), python="/nonexistent/python")
        standby.ensure(spec)
        with anyio.fail_after(2):
            assert await standby.take(spec) is None
        await standby.drop()


@pytest.mark.ray
async def test_what_ray_logged_before_it_ended_the_process_is_told() -> None:
    """`_Exit` by Ray's own timer: no exception, no handler; the driver's log says why."""
    spec = _spec(new_mark())
    hasty = {**spec.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "2"}
    with ray_head() as own:
        async with _session(replace(spec, environ=hasty)) as session:
            await _attach(session, own)
            raylet = own.raylet
            assert raylet is not None
            session.logs = str(Path(raylet.socket).parent.parent / "logs")
            own.kill_gcs()
            with anyio.move_on_after(15):
                while session.exit is None:
                    with contextlib.suppress(AttachError):
                        await session.heartbeat(1.0)
            assert session.exit is not None
            assert (session.exit.type, session.exit.code) == (ErrorType.SESSION_EXITED, "1")
            assert "its log said: " in session.exit.message
            assert "GCS" in session.exit.message
