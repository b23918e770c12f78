"""Faults of a session that no attempt meets at will, each from its real cause."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from castrayd.core.candidates import parse_address
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType
from castrayd.session.launch import launch_spec
from castrayd.session.session import Session
from tests.support.processes import MARK, new_mark
from tests.support.ray import RayHead, ray_head

pytestmark = pytest.mark.ray

SPAWN_S = 20.0


@asynccontextmanager
async def _session(**environ: str) -> AsyncIterator[Session]:
    spec = launch_spec(None, None, {**os.environ, MARK: new_mark()}, mode=Mode.DRIVER)
    session = Session(replace(spec, environ={**spec.environ, **environ}), lambda _line: None)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(SPAWN_S):
            await tasks.start(session.run)
        yield session
        await session.close()


async def _attach(session: Session, head: RayHead, namespace: str = "test") -> Any:
    return await session.attach(
        parse_address(head.address),
        namespace=namespace,
        env_vars={},
        working_dir=None,
        timeout_s=30,
    )


async def _mapped_for(seconds: float, session: Session) -> None:
    """Ask for the node map again and again: the GCS takes its time to call a node dead."""
    with anyio.fail_after(seconds):
        while True:
            await session.nodes(5.0)
            await anyio.sleep(0.1)


async def test_namespace_that_ray_does_not_take(head: RayHead) -> None:
    """Settings let no such name through; Ray itself says the same of it."""
    async with _session() as session:
        with pytest.raises(AttachError) as caught:
            await _attach(session, head, "")

    assert caught.value.fault.type is ErrorType.NAMESPACE_INVALID


async def test_control_plane_that_freezes_before_the_node_map(head: RayHead) -> None:
    """Joined, and then no answer."""
    async with _session() as session:
        await _attach(session, head)
        gcs = head.gcs_pid
        assert gcs is not None
        os.kill(gcs, signal.SIGSTOP)
        try:
            with pytest.raises(AttachError) as caught:
                await session.nodes(1.0)
        finally:
            os.kill(gcs, signal.SIGCONT)

    assert caught.value.fault.type is ErrorType.NODE_MAP_TIMEOUT


async def test_cluster_whose_only_node_has_died() -> None:
    """The control plane answers, and lists no node that is alive."""
    with ray_head() as head:
        async with _session() as session:
            await _attach(session, head)
            head.kill_raylet()
            with pytest.raises(AttachError) as caught:
                await _mapped_for(40.0, session)

    assert caught.value.fault.type is ErrorType.NODE_MAP_EMPTY


async def test_control_plane_that_knows_no_session_yet() -> None:
    """A GCS that has just started, and that nobody has told of a cluster."""
    with ray_head() as head:
        head.restart_gcs()
        impatient = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_raylet_start_wait_time_s": "2"}
        async with _session(**impatient) as session:
            with pytest.raises(AttachError) as caught:
                await _attach(session, head)

    assert caught.value.fault.type is ErrorType.CLUSTER_NOT_READY
