"""One candidate of an attempt: probed first, joined when it is its turn. Run by `attempt`."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from castrayd.core.candidates import Address, Candidate
from castrayd.core.cluster import ClusterFacts
from castrayd.core.phases import PhaseClock
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.ladder import Climb, climb
from castrayd.session.session import NodesPush, Session
from castrayd.supervisor.connection import NO_TOKEN, Connection, Token
from castrayd.supervisor.documents import CandidateDocument
from castrayd.telemetry.clock import Clock

__all__ = ("Attached", "Sessions", "Trial", "deadline")


class Sessions(Protocol):
    """Where an attempt gets its session from: the standby, or a new one."""

    async def obtain(self, connection: Connection, token: Token, mode: Mode) -> Session:
        """Return a session with ray imported; cancelled, it leaves nothing behind."""

    async def ray_version(self, connection: Connection) -> str | None:
        """Return the Ray version of the session's interpreter; None where it cannot be told."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What a successful attempt hands over."""

    candidate: Candidate
    address: Address
    session: Session
    facts: ClusterFacts
    nodes: NodesPush
    climb: Climb | None
    """What the probes saw; None in local mode, where there was nothing to probe."""
    token: Token
    connection: Connection


class Trial:
    """A candidate under way. `probe` and then `join` are called once each."""

    def __init__(
        self, candidate: Candidate, connection: Connection, sessions: Sessions, clock: Clock
    ) -> None:
        self.candidate = candidate
        self.fault: Fault | None = None
        """Why it failed; None while it has not."""
        self.probed = anyio.Event()
        self.token = NO_TOKEN
        self.clock = PhaseClock(clock.monotonic)
        self.seen: dict[str, str | None] = {}
        """What the probes saw on the way, and the session."""
        self._connection = connection
        self._sessions = sessions
        self._climb: Climb | None = None

    def document(self) -> CandidateDocument:
        """Return the trial as it stands."""
        phases = {phase.value: seconds for phase, seconds in self.clock.durations.items()}
        one = self.candidate
        return CandidateDocument(one.text, one.source, phases, self.fault, dict(self.seen))

    async def probe(self) -> None:
        """Climb the ladder; a failure is noted in `fault`."""
        try:
            self._climb = await self._probed()
        except AttachError as error:
            self.fault = error.fault
        self.probed.set()

    async def _probed(self) -> Climb | None:
        address = self._address()
        if address.mode is Mode.LOCAL:
            return None
        self.token = await self._connection.current_token()
        return await climb(
            address,
            clock=self.clock,
            deadlines=self._connection.deadlines,
            credentials=self._connection.credentials(self.token),
            expect=lambda: self._sessions.ray_version(self._connection),
            hearsay=self.candidate.hearsay,
            tell=lambda _phase, seen: self.seen.update(seen),
        )

    def _address(self) -> Address:
        address = self.candidate.address
        if address is None:
            raise AttachError(self.candidate.fault or _unusable(self.candidate))
        return address

    async def join(self) -> Attached | None:
        """Put a session on what was probed; None where that failed, and `fault` says why."""
        try:
            return await self._joined()
        except AttachError as error:
            self.fault = error.fault
            return None

    async def _joined(self) -> Attached:
        address = self._address()
        async with self._session(address.mode) as session:
            facts, nodes = await self._attach(address, session)
            if address.mode is Mode.LOCAL:  # it has just made its own
                self.token = await self._connection.current_token()
        return Attached(
            self.candidate, address, session, facts, nodes, self._climb, self.token,
            self._connection,
        )  # fmt: skip

    @asynccontextmanager
    async def _session(self, mode: Mode) -> AsyncIterator[Session]:
        """Obtain a session and keep it only when the body succeeds."""
        limit_s = self._connection.deadlines.spawn_s
        with self.clock.phase(Phase.SPAWN), deadline(limit_s, lambda: _late_spawn(limit_s)):
            session = await self._sessions.obtain(self._connection, self.token, mode)
        try:
            yield session
        except BaseException:
            await session.close()
            raise

    async def _attach(self, address: Address, session: Session) -> tuple[ClusterFacts, NodesPush]:
        limits = self._connection.deadlines
        local = address.mode is Mode.LOCAL
        session.logs = self._logs()
        init_s = limits.client_init_s if address.mode is Mode.CLIENT else limits.init_s
        with self.clock.phase(Phase.INIT):
            facts = await session.attach(
                address,
                namespace=self._connection.namespace,
                env_vars=self._connection.env_vars,
                working_dir=self._connection.local_working_dir if local else None,
                timeout_s=init_s,
            )
            self.seen["session_name"] = facts.session_name
            _same_cluster(self._climb, facts)
        with self.clock.phase(Phase.NODES):
            return facts, await session.nodes(limits.nodes_s)

    def _logs(self) -> str | None:
        """Where Ray logs on this host: beside the sockets of the raylet that is used."""
        node = self._climb.local_node if self._climb else None
        return str(Path(node.socket).parent.parent / "logs") if node else None


@contextmanager
def deadline(seconds: float, fault: Callable[[], Fault]) -> Iterator[None]:
    """Bound the body; when it runs out of time, raise the fault that says so."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise AttachError(fault())


def _late_spawn(limit_s: float) -> Fault:
    message = f"the session did not greet within {limit_s} s"
    return Fault.of(ErrorType.SESSION_SPAWN_FAILED, Phase.SPAWN, message)


def _unusable(candidate: Candidate) -> Fault:
    return Fault.of(ErrorType.ADDRESS_INVALID, Phase.DISCOVER, f"{candidate.text!r}")


def _same_cluster(seen: Climb | None, facts: ClusterFacts) -> None:
    """Refuse a session that joined another cluster than the one that was probed."""
    expected = seen.identity.cluster_id if seen else None
    if expected is None or facts.cluster_id is None or expected == facts.cluster_id:
        return
    message = f"probed cluster {expected}, but the session joined {facts.cluster_id}"
    raise AttachError(Fault.of(ErrorType.CLUSTER_REPLACED, Phase.INIT, message))
