"""The checks of an attachment: raw facts about GCS, raylet, session and identity.

What a fact means (hysteresis, root causes, grace) is the core's business. A broken stream is
certain and reported within milliseconds; a slow answer is a miss, and the second ask follows at
once. While the control plane is bad it is asked five times a second, and what depends on it is
left alone; when it is good again its dependants are asked at once.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.core.health import Check, CheckReport
from castrayd.core.policy import Checks
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.peer import Peer
from castrayd.probe.resolve import Endpoint

__all__ = ("AttachedChecks", "Subjects")

ASK_AGAIN_S: Final = 0.2
IDENTITY_EVERY: Final = 5
"""Rounds of checks between two questions for the cluster's id: the streams tell sooner."""

Report = Callable[[CheckReport], None]
Ask = Callable[[float], Awaitable[None]]
"""Asks within so many seconds; raises `AttachError`."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """What is to be watched."""

    gcs: Endpoint
    raylet: Endpoint | None
    """The NodeManager of the raylet that the driver uses; None where it is not known."""
    cluster_id: str | None
    token: str | None
    ping: Ask
    heartbeat: Ask


class AttachedChecks:
    """Watches one attachment. `run` it until cancelled; it closes its channels."""

    def __init__(self, subjects: Subjects, checks: Checks) -> None:
        self._subjects = subjects
        self._checks = checks
        self._gcs = Peer(subjects.gcs)
        self._raylet = Peer(subjects.raylet) if subjects.raylet else None
        self._gcs_good = True
        self._nudge = anyio.Event()
        self._report: Report = lambda _report: None

    async def run(self, report: Report) -> None:
        """Report facts until cancelled."""
        self._report = report
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_gcs, name="gcs-watch")
                tasks.start_soon(self._ask_gcs, name="gcs-check")
                tasks.start_soon(self._ask_session, name="ping")
                tasks.start_soon(self._ask_dependants, name="heartbeat")
                if self._raylet is not None:
                    tasks.start_soon(self._follow_raylet, self._raylet, name="raylet-watch")
                    tasks.start_soon(self._ask_raylet, self._raylet, name="raylet-check")
        finally:
            await self._gcs.close()
            if self._raylet is not None:
                await self._raylet.close()

    async def ask_identity(self) -> str | None:
        """Ask the GCS for its cluster's id, hex; None where it does not tell."""
        identity = await self._gcs.identity(self._subjects.token, self._checks.timeout_s)
        return identity.cluster_id

    # --- the control plane ---

    async def _follow_gcs(self) -> None:
        """Hold the health stream; a break is certain. Then wait for the checks to be good again."""
        while True:
            established = anyio.Event()
            why = await self._gcs.watch(established)
            if established.is_set():
                self._gcs_failed(f"the health stream broke: {why}")
            await anyio.sleep(ASK_AGAIN_S)

    def _gcs_failed(self, why: str) -> None:
        self._gcs_good = False
        self._tell(Check.GCS, ErrorType.CONTROL_PLANE_LOST, why)
        self._nudge.set()

    async def _ask_gcs(self) -> None:
        while True:
            try:
                await self._gcs.check(self._checks.timeout_s)
            except AttachError as error:
                await self._gcs_missed(error.fault)
                continue
            self._gcs_good = True
            self._report(CheckReport(Check.GCS, None))
            await self._sleep_or_nudge()

    async def _gcs_missed(self, fault: Fault) -> None:
        """Silence is a miss, and asked again at once; whatever else is certain."""
        if fault.type is ErrorType.HEALTH_TIMEOUT:
            self._tell(Check.GCS, ErrorType.CONTROL_PLANE_TIMEOUT, fault.message, certain=False)
            self._gcs_good = False
            return
        kind = fault.type if fault.type in _KEPT else ErrorType.CONTROL_PLANE_LOST
        self._gcs_good = False
        self._tell(Check.GCS, kind, fault.message)
        await anyio.sleep(ASK_AGAIN_S)

    async def _sleep_or_nudge(self) -> None:
        """Sleep a round; a stream that breaks meanwhile ends the sleep."""
        with anyio.move_on_after(self._checks.interval_s):
            await self._nudge.wait()
            self._nudge = anyio.Event()

    # --- the raylet of this host ---

    async def _follow_raylet(self, raylet: Peer) -> None:
        while True:
            established = anyio.Event()
            why = await raylet.watch(established)
            if established.is_set():
                message = f"the raylet of this host is gone: {why}"
                self._tell(Check.RAYLET, ErrorType.LOCAL_NODE_LOST, message)
                return
            await anyio.sleep(ASK_AGAIN_S)

    async def _ask_raylet(self, raylet: Peer) -> None:
        """A silent raylet may wake up again, so it is no loss; one that refuses is gone."""
        while True:
            try:
                await raylet.check(self._checks.timeout_s)
            except AttachError as error:
                if error.fault.type is not ErrorType.HEALTH_TIMEOUT:
                    self._tell(Check.RAYLET, ErrorType.LOCAL_NODE_LOST, error.fault.message)
                    return
                message = f"the raylet of this host is silent: {error.fault.message}"
                self._tell(Check.RAYLET, ErrorType.SESSION_UNRESPONSIVE, message, certain=False)
                continue
            self._report(CheckReport(Check.RAYLET, None))
            await anyio.sleep(self._checks.interval_s)

    # --- the session, and what it sees of the cluster ---

    async def _ask_session(self) -> None:
        while True:
            try:
                await self._subjects.ping(self._checks.timeout_s)
            except AttachError as error:
                await self._dependant_missed(Check.SESSION, error.fault)
                continue
            self._report(CheckReport(Check.SESSION, None))
            await anyio.sleep(self._checks.interval_s)

    async def _ask_dependants(self) -> None:
        """Heartbeat each round, identity each fifth: only while the control plane is good."""
        rounds = 0
        while True:
            if not self._gcs_good:
                rounds = 0
                await anyio.sleep(ASK_AGAIN_S)
                continue
            try:
                await self._subjects.heartbeat(self._checks.timeout_s)
            except AttachError as error:
                if await self._gcs_answers():
                    await self._dependant_missed(Check.HEARTBEAT, error.fault)
                continue
            self._report(CheckReport(Check.HEARTBEAT, None))
            if rounds % IDENTITY_EVERY == 0:
                await self._ask_cluster_id()
            rounds += 1
            await anyio.sleep(self._checks.interval_s)

    async def _dependant_missed(self, check: Check, fault: Fault) -> None:
        self._report(CheckReport(check, fault, certain=False))
        if fault.type is ErrorType.SESSION_EXITED:
            await anyio.sleep_forever()  # the exit itself is told by the process's own watch

    async def _gcs_answers(self) -> bool:
        """Look for the root cause first: a heartbeat cannot pass through a GCS that is silent."""
        try:
            await self._gcs.check(self._checks.timeout_s)
        except AttachError:
            self._nudge.set()
            return False
        return True

    async def _ask_cluster_id(self) -> None:
        try:
            seen = await self.ask_identity()
        except AttachError as error:
            if error.fault.type is ErrorType.AUTH_REJECTED:
                self._tell(Check.IDENTITY, ErrorType.AUTH_REJECTED, error.fault.message)
            return
        expected = self._subjects.cluster_id
        if expected is not None and seen is not None and seen != expected:
            message = f"attached to cluster {expected}, but {seen} answers now"
            self._tell(Check.IDENTITY, ErrorType.CLUSTER_REPLACED, message)
            return
        self._report(CheckReport(Check.IDENTITY, None))

    def _tell(self, check: Check, kind: ErrorType, message: str, *, certain: bool = True) -> None:
        fault = Fault.of(kind, Phase.ATTACHED, message)
        self._report(CheckReport(check, fault, certain))


_KEPT: Final = frozenset({ErrorType.NOT_RAY})
"""Faults of the health check that mean the same when they come later."""
