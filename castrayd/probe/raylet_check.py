"""The watch over the raylet of this host that a driver uses. Run by `attached`.

A driver never recovers from the loss of its raylet, so the verdict has no grace and must be
right: the process has ended, or its port refuses. A stream that breaks only makes it look at
once. A raylet that is merely silent may wake up again, and is no loss.
"""

import os
from collections.abc import Callable
from typing import Final

import anyio

from castrayd.core.health import Check, CheckReport
from castrayd.core.policy import Checks
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.bell import Bell
from castrayd.probe.local_node import scan
from castrayd.probe.peer import Peer

__all__ = ("RayletCheck",)

ASK_AGAIN_S: Final = 0.2


class RayletCheck:
    """Reports on one raylet until it is lost or the watch is cancelled."""

    def __init__(
        self,
        peer: Peer | None,
        node_id: str | None,
        checks: Callable[[], Checks],
        report: Callable[[CheckReport], None],
    ) -> None:
        self._peer = peer
        self._node_id = node_id
        self._checks = checks
        self._report = report
        self._bell = Bell()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Watch stream, port and process; returns when the raylet is lost, and told so."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                if self._node_id is not None:
                    tasks.start_soon(self._follow_process, self._node_id, name="raylet-process")
                if self._peer is not None:
                    tasks.start_soon(self._follow_stream, self._peer, name="raylet-watch")
                    tasks.start_soon(self._ask, self._peer, name="raylet-check")

    async def _follow_process(self, node_id: str) -> None:
        """Wait for the end of its process, where the process is to be seen from here."""
        pid = next((raylet.pid for raylet in await scan() if raylet.node_id == node_id), None)
        if pid is not None and await _ended(pid, node_id):
            self._lost(f"its process {pid} ended")

    async def _follow_stream(self, peer: Peer) -> None:
        while True:
            established = anyio.Event()
            await peer.watch(established)
            if established.is_set():
                self._bell.ring()
            await anyio.sleep(ASK_AGAIN_S)

    async def _ask(self, peer: Peer) -> None:
        while True:
            try:
                await peer.check(self._checks().timeout_s)
            except AttachError as error:
                await self._missed(error.fault)
            else:
                self._report(CheckReport(Check.RAYLET, None))
                await self._bell.sleep(self._checks().interval_s)

    async def _missed(self, fault: Fault) -> None:
        """A port of this very host that refuses or resets has no raylet behind it any more."""
        if fault.type is ErrorType.TCP_RESET:
            self._lost(fault.message)
            return
        message = f"the raylet of this host does not answer: {fault.message}"
        silent = Fault.of(ErrorType.SESSION_UNRESPONSIVE, Phase.ATTACHED, message, code=fault.code)
        self._report(CheckReport(Check.RAYLET, silent, certain=False))
        if fault.type is not ErrorType.HEALTH_TIMEOUT:
            await anyio.sleep(ASK_AGAIN_S)  # it answered at once, only not well

    def _lost(self, why: str) -> None:
        message = f"the raylet of this host is gone: {why}"
        fault = Fault.of(ErrorType.LOCAL_NODE_LOST, Phase.ATTACHED, message)
        self._report(CheckReport(Check.RAYLET, fault))
        self._scope.cancel()


async def _ended(pid: int, node_id: str) -> bool:
    """Wait until the process ends; False where it cannot be watched, or was another's already.

    Source: pidfd_open(2): the descriptor becomes readable when the process ends.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False  # gone this moment, or forbidden: the port will tell
    try:
        if not any(raylet.pid == pid and raylet.node_id == node_id for raylet in await scan()):
            return False  # the number was given to another process before it was pinned
        await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return True
