"""One attempt to attach: candidates in order, each through its timed phases.

Run by `effects`. Everything that an attempt has begun and not handed over is ended when it fails
or is cancelled. The first candidate that attaches wins.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio

from castrayd.core.candidates import LOCAL, Address, Candidate
from castrayd.core.cluster import ClusterFacts
from castrayd.core.commands import AttemptRef
from castrayd.core.phases import PhaseClock
from castrayd.core.states import Mode, Outcome
from castrayd.errors import AttachError, ErrorType, Fault, Phase, Retry
from castrayd.probe.discovery import discover
from castrayd.probe.ladder import Climb, climb
from castrayd.session.session import NodesPush, Session
from castrayd.supervisor.connection import Connection, Token
from castrayd.supervisor.documents import AttemptDocument, CandidateDocument
from castrayd.telemetry.clock import Clock

__all__ = ("Attached", "Attempt", "Sessions")


class Sessions(Protocol):
    """Where an attempt gets its session from: the standby, or a new one."""

    async def obtain(self, connection: Connection, token: Token | None, mode: Mode) -> Session:
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
    token: Token | None
    connection: Connection


class _Trial:
    """One candidate under way."""

    def __init__(self, candidate: Candidate, clock: Clock) -> None:
        self.candidate = candidate
        self.clock = PhaseClock(clock.monotonic)
        self.fault: Fault | None = None

    def document(self) -> CandidateDocument:
        phases = {phase.value: seconds for phase, seconds in self.clock.durations.items()}
        return CandidateDocument(self.candidate.text, self.candidate.source, phases, self.fault)


class Attempt:
    """One numbered try. `document` may be asked at any time; `run` is called once."""

    def __init__(
        self, ref: AttemptRef, connection: Connection, sessions: Sessions, clock: Clock
    ) -> None:
        self.ref = ref
        self._connection = connection
        self._sessions = sessions
        self._clock = clock
        self._started_at = clock.now()
        self._started_s = clock.monotonic()
        self._duration_s: float | None = None
        self._outcome: Outcome | None = None
        self._trials: list[_Trial] = []
        self._decided: _Trial | None = None
        self._discovery = PhaseClock(clock.monotonic)
        self._fault: Fault | None = None

    @property
    def last(self) -> Candidate | None:
        """The candidate that decided, or the one under way."""
        trial = self._decided or (self._trials[-1] if self._trials else None)
        return trial.candidate if trial else None

    async def run(self) -> Attached:
        """Try the candidates in order. Raises `AttachError`; leaves nothing when it does."""
        limit_s = self._connection.deadlines.attempt_s
        with self._measured(), _deadline(limit_s, self._overrun):
            candidates = await self._candidates()
            for candidate in candidates:
                trial = _Trial(candidate, self._clock)
                self._trials.append(trial)
                try:
                    attached = await self._try(trial)
                except AttachError as error:
                    trial.fault = error.fault
                else:
                    self._decided = trial
                    return attached
            raise AttachError(self._decide())
        raise AssertionError  # pragma: no cover  (a deadline always raises)

    @contextmanager
    def _measured(self) -> Iterator[None]:
        outcome = Outcome.CANCELLED
        try:
            yield
            outcome = Outcome.SUCCESS
        except AttachError as error:
            outcome, self._fault = Outcome.FAILURE, error.fault
            raise
        finally:
            self._outcome = outcome
            self._duration_s = self._clock.monotonic() - self._started_s

    def _overrun(self) -> Fault:
        """Name the attempt's own deadline by the phase that it cut short."""
        clock = self._trials[-1].clock if self._trials else self._discovery
        phase = next(reversed(clock.durations), Phase.DISCOVER)
        seconds = self._connection.deadlines.attempt_s
        message = f"the attempt as a whole took longer than {seconds} s"
        fault = Fault.of(_OVERRUN.get(phase, ErrorType.INIT_TIMEOUT), phase, message)
        if self._trials:
            self._decided = self._trials[-1]
            self._decided.fault = fault
        return fault

    def _decide(self) -> Fault:
        """The first candidate that time may mend decides; else the first of all."""
        failed = [trial for trial in self._trials if trial.fault is not None]
        transient = [t for t in failed if t.fault and t.fault.retry is Retry.TRANSIENT]
        self._decided = (transient or failed)[0]
        fault = self._decided.fault
        assert fault is not None  # noqa: S101  both lists hold only trials with one
        return fault

    async def _candidates(self) -> tuple[Candidate, ...]:
        found = self._connection.candidates(self.ref.address)
        if found:
            return found
        with self._discovery.phase(Phase.DISCOVER):
            found = await discover()
        if found:
            return found
        if self._connection.allow_local_start:
            return (Candidate("local", "local", LOCAL),)
        message = "no address is configured, and no raylet runs on this host"
        raise AttachError(Fault.of(ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER, message))

    async def _try(self, trial: _Trial) -> Attached:
        candidate = trial.candidate
        if candidate.address is None:
            raise AttachError(candidate.fault or _unusable(candidate))
        token = self._connection.token()
        seen = await self._probe(trial, candidate.address, token)
        async with self._session(trial, candidate.address.mode, token) as session:
            facts, nodes = await self._join(trial, candidate.address, session, seen)
        return Attached(
            candidate, candidate.address, session, facts, nodes, seen, token, self._connection
        )

    async def _probe(self, trial: _Trial, address: Address, token: Token | None) -> Climb | None:
        if address.mode is Mode.LOCAL:
            return None
        return await climb(
            address,
            clock=trial.clock,
            deadlines=self._connection.deadlines,
            token=token.value if token else None,
            expect=await self._sessions.ray_version(self._connection),
        )

    @asynccontextmanager
    async def _session(
        self, trial: _Trial, mode: Mode, token: Token | None
    ) -> AsyncIterator[Session]:
        """Obtain a session and keep it only when the body succeeds."""
        limit_s = self._connection.deadlines.spawn_s
        with trial.clock.phase(Phase.SPAWN), _deadline(limit_s, lambda: _late_spawn(limit_s)):
            session = await self._sessions.obtain(self._connection, token, mode)
        try:
            yield session
        except BaseException:
            await session.close()
            raise

    async def _join(
        self, trial: _Trial, address: Address, session: Session, seen: Climb | None
    ) -> tuple[ClusterFacts, NodesPush]:
        limits = self._connection.deadlines
        local = address.mode is Mode.LOCAL
        with trial.clock.phase(Phase.INIT):
            facts = await session.attach(
                address,
                namespace=self._connection.namespace,
                env_vars=self._connection.env_vars,
                working_dir=self._connection.local_working_dir if local else None,
                timeout_s=limits.init_s,
            )
            _same_cluster(seen, facts)
        with trial.clock.phase(Phase.NODES):
            return facts, await session.nodes(limits.nodes_s)

    def document(self) -> AttemptDocument:
        """Return the attempt as it stands."""
        shown = self._decided or (self._trials[-1] if self._trials else None)
        phases = {phase.value: seconds for phase, seconds in self._discovery.durations.items()}
        if shown is not None:
            phases |= shown.document().phases
        duration_s = self._duration_s
        if duration_s is None:
            duration_s = self._clock.monotonic() - self._started_s
        return AttemptDocument(
            self.ref.id,
            self.ref.number,
            self.ref.trigger,
            self._outcome,
            self._started_at,
            duration_s,
            phases,
            self._fault,
            tuple(trial.document() for trial in self._trials),
        )


@contextmanager
def _deadline(seconds: float, fault: Callable[[], Fault]) -> Iterator[None]:
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
    expected = seen.identity.cluster_id if seen and seen.identity else None
    if expected is None or facts.cluster_id is None or expected == facts.cluster_id:
        return
    message = f"probed cluster {expected}, but the session joined {facts.cluster_id}"
    raise AttachError(Fault.of(ErrorType.CLUSTER_REPLACED, Phase.INIT, message))


_OVERRUN = {
    Phase.DISCOVER: ErrorType.NO_CLUSTER_FOUND,
    Phase.RESOLVE: ErrorType.DNS_TIMEOUT,
    Phase.TCP: ErrorType.TCP_TIMEOUT,
    Phase.HEALTH: ErrorType.HEALTH_TIMEOUT,
    Phase.IDENTITY: ErrorType.HEALTH_TIMEOUT,
    Phase.LOCAL_NODE: ErrorType.NO_LOCAL_NODE,
    Phase.SPAWN: ErrorType.SESSION_SPAWN_FAILED,
    Phase.NODES: ErrorType.NODE_MAP_TIMEOUT,
}
"""What a phase is called that the attempt's own deadline cut short."""
