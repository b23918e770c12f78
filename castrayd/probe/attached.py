"""The checks of an attachment: raw facts about GCS, raylet, session and identity.

Run by the supervisor for as long as a session lives. What a fact means (hysteresis, root causes,
grace) is the core's business. A broken stream is certain and reported within milliseconds; a slow
answer is a miss, and the second ask follows at once. While the control plane is bad it is asked
five times a second, and what depends on it is left alone; when it is good again its dependants are
asked at once, the cluster's id among them: a head that came back may be another.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.core.health import Check, CheckReport
from castrayd.core.policy import Checks
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.bell import Bell
from castrayd.probe.credentials import Credentials
from castrayd.probe.ladder import peer_of
from castrayd.probe.peer import Peer
from castrayd.probe.raylet_check import ASK_AGAIN_S, RayletCheck
from castrayd.probe.resolve import Endpoint

__all__ = ("AttachedChecks", "Subjects")

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
    credentials: Credentials
    ping: Ask
    heartbeat: Ask
    node_id: str | None = None
    """Hex id of the raylet's node: with it, the end of its process is seen too."""
    mode: Mode = Mode.DRIVER
    """By Ray Client there is neither a stream to hold nor a raylet or an id to ask for."""


class AttachedChecks:
    """Watches one attachment. `run` it until cancelled; it closes its channels."""

    def __init__(self, subjects: Subjects, checks: Callable[[], Checks]) -> None:
        self._subjects = subjects
        self._checks = checks
        self._gcs = peer_of(subjects.mode, subjects.gcs, subjects.credentials)
        raylet = subjects.raylet
        self._raylet = Peer(raylet, subjects.credentials) if raylet else None
        self._gcs_good = True
        self._gcs_bell, self._dependants_bell = Bell(), Bell()
        self._rounds = 0
        self._report: Report = lambda _report: None

    async def run(self, report: Report) -> None:
        """Report facts until cancelled."""
        self._report = report
        raylet = RayletCheck(self._raylet, self._subjects.node_id, self._checks, report)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_gcs, name="gcs-watch")
                tasks.start_soon(self._ask_gcs, name="gcs-check")
                tasks.start_soon(raylet.run, name="raylet")
                tasks.start_soon(self._ask_session, name="ping")
                tasks.start_soon(self._ask_dependants, name="heartbeat")
        finally:
            await self._gcs.close()
            if self._raylet is not None:
                await self._raylet.close()

    async def ask_identity(self) -> str | None:
        """Ask the GCS for its cluster's id, hex; None where it has no such call.

        Raises `AttachError` where it does not answer: silence is not the same cluster.
        """
        return await self._gcs.cluster_id(self._checks().timeout_s)

    # --- the control plane ---

    async def _follow_gcs(self) -> None:
        """Hold the health stream; a break is certain, and makes the check look at once."""
        while True:
            established = anyio.Event()
            why = await self._gcs.watch(established)
            if established.is_set():
                self._gcs_bad(ErrorType.CONTROL_PLANE_LOST, f"the health stream broke: {why}")
                self._gcs_bell.ring()
            await anyio.sleep(ASK_AGAIN_S)

    async def _ask_gcs(self) -> None:
        while True:
            try:
                await self._gcs.check(self._checks().timeout_s)
            except AttachError as error:
                await self._gcs_missed(error.fault)
            else:
                self._gcs_answered()
                await self._gcs_bell.sleep(self._checks().interval_s)

    def _gcs_answered(self) -> None:
        self._report(CheckReport(Check.GCS, None))
        if not self._gcs_good:
            self._gcs_good = True
            self._rounds = 0
            self._dependants_bell.ring()

    async def _gcs_missed(self, fault: Fault) -> None:
        """Silence is a miss, and asked again at once; whatever else is certain."""
        if fault.type is ErrorType.HEALTH_TIMEOUT:
            self._gcs_bad(ErrorType.CONTROL_PLANE_TIMEOUT, fault.message, certain=False)
            return
        kind = fault.type if fault.type in _KEPT else ErrorType.CONTROL_PLANE_LOST
        self._gcs_bad(kind, fault.message)
        await anyio.sleep(ASK_AGAIN_S)

    def _gcs_bad(self, kind: ErrorType, message: str, *, certain: bool = True) -> None:
        self._gcs_good = False
        self._tell(Check.GCS, kind, message, certain=certain)

    # --- the session, and what it sees of the cluster ---

    async def _ask_session(self) -> None:
        while True:
            if await self._asked(Check.SESSION, self._subjects.ping):
                await anyio.sleep(self._checks().interval_s)

    async def _ask_dependants(self) -> None:
        """Heartbeat each round, identity each fifth: only while the control plane is good."""
        while True:
            if self._gcs_good:
                if not await self._asked(Check.HEARTBEAT, self._subjects.heartbeat):
                    continue
                if self._rounds % IDENTITY_EVERY == 0:
                    await self._ask_cluster_id()
                self._rounds += 1
            await self._dependants_bell.sleep(self._checks().interval_s)

    async def _asked(self, check: Check, ask: Ask) -> bool:
        """Ask once, and report; a miss takes a while, however soon it was known."""
        began_s = anyio.current_time()
        try:
            await ask(self._checks().timeout_s)
        except AttachError as error:
            if check is Check.HEARTBEAT and not await self._gcs_answers():
                return False  # the root cause is reported in its stead
            self._report(CheckReport(check, error.fault, certain=False))
            if error.fault.type is ErrorType.SESSION_EXITED:
                await anyio.sleep_forever()  # the exit itself is told by the process's own watch
            await anyio.sleep(max(0.0, began_s + ASK_AGAIN_S - anyio.current_time()))
            return False
        self._report(CheckReport(check, None))
        return True

    async def _gcs_answers(self) -> bool:
        """Look for the root cause first: a heartbeat cannot pass through a GCS that is silent."""
        try:
            await self._gcs.check(self._checks().timeout_s)
        except AttachError:
            self._gcs_bell.ring()
            await anyio.sleep(ASK_AGAIN_S)
            return False
        return True

    async def _ask_cluster_id(self) -> None:
        try:
            seen = await self.ask_identity()
        except AttachError as error:
            if error.fault.type in {ErrorType.AUTH_REJECTED, ErrorType.AUTH_MISSING}:
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


_KEPT: Final = frozenset({ErrorType.NOT_RAY, ErrorType.AUTH_REJECTED})
"""Faults of the health check that mean the same when they come later."""
