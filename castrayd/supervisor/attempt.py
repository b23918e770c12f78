"""One attempt to attach: candidates in order of preference, each through its timed phases.

Run by `perform`. The candidates come in tiers: what is configured, then what is discovered, then
`RAY_ADDRESS` where an argument hid it, then a cluster of our own. Those of a tier are probed side
by side and joined in order: the first that attaches wins. Everything that an attempt has begun
and not handed over is ended when it fails or is cancelled.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio

from castrayd.core.candidates import LOCAL, Candidate
from castrayd.core.commands import RunAttempt
from castrayd.core.phases import PhaseClock
from castrayd.core.states import Outcome
from castrayd.errors import AttachError, ErrorType, Fault, Phase, Retry, described
from castrayd.probe.discovery import CURRENT_CLUSTER, discover
from castrayd.supervisor.connection import Connection
from castrayd.supervisor.documents import AttemptDocument
from castrayd.supervisor.trial import Attached, Sessions, Trial, deadline
from castrayd.telemetry.clock import Clock

__all__ = ("OVERRUN", "PROBES_AT_ONCE", "Attempt")

PROBES_AT_ONCE = 8
"""More candidates than this wait for their turn to be probed."""


class Attempt:
    """One numbered try. `document` may be asked at any time; `run` is called once."""

    def __init__(
        self, order: RunAttempt, connection: Connection, sessions: Sessions, clock: Clock
    ) -> None:
        self.ref = order.attempt
        self.trials: list[Trial] = []
        """Every candidate that was tried, in order of preference."""
        self._unreachable_s = order.unreachable_s
        self._connection = connection
        self._sessions = sessions
        self._clock = clock
        self._started_at = clock.now()
        self._started_s = clock.monotonic()
        self._duration_s: float | None = None
        self._outcome: Outcome | None = None
        self._decided: Trial | None = None
        self._discovery = PhaseClock(clock.monotonic)
        self._fault: Fault | None = None

    @property
    def last(self) -> Candidate | None:
        """The candidate that decided, or the last one begun."""
        trial = self._decided or (self.trials[-1] if self.trials else None)
        return trial.candidate if trial else None

    @property
    def rank(self) -> int:
        """How many candidates were preferred to the one that decided."""
        return self.trials.index(self._decided) if self._decided in self.trials else 0

    @property
    def won(self) -> bool:
        """Whether it has attached."""
        return self._outcome is Outcome.SUCCESS

    @property
    def wanted(self) -> bool:
        """Whether there is a cluster that one of our own would only stand in for."""
        return any(map(_is_wanted, self.trials))

    def faults(self) -> tuple[Fault, ...]:
        """Those of the candidates that did not decide."""
        others = (trial.fault for trial in self.trials if trial is not self._decided)
        return tuple(fault for fault in others if fault is not None)

    async def run(self) -> Attached:
        """Try the candidates in order. Raises `AttachError`; leaves nothing when it does."""
        limit_s = self._connection.deadlines.attempt_s
        with self._measured(), deadline(limit_s, self._overrun):
            for tier in (self._configured, self._discovered, self._environment, self._own):
                attached = await self._try(await tier())
                if attached is not None:
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
        except Exception as error:
            outcome, self._fault = Outcome.FAILURE, self._bug(error)
            raise AttachError(self._fault) from error
        finally:
            self._outcome = outcome
            self._duration_s = self._clock.monotonic() - self._started_s

    # --- the tiers ---

    async def _configured(self) -> tuple[Candidate, ...]:
        return self._connection.candidates(self.ref.address)

    async def _discovered(self) -> tuple[Candidate, ...]:
        if self.ref.address is not None or not self._connection.discovery.kinds:
            return ()
        connection = self._connection
        with self._discovery.phase(Phase.DISCOVER):
            return await discover(connection.discovery, connection.deadlines.discover_s)

    async def _environment(self) -> tuple[Candidate, ...]:
        return self._connection.last_resort() if self.ref.address is None else ()

    async def _own(self) -> tuple[Candidate, ...]:
        """Start a cluster only where nothing is wanted, or what is wanted stays out of reach."""
        if self.ref.address is not None or not self._connection.allow_local_start:
            return ()
        allowed = self._is_overdue() if self.wanted else True
        return (Candidate(LOCAL.url, "local", LOCAL),) if allowed else ()

    def _is_overdue(self) -> bool:
        after_s = self._connection.policy.fallback_after_s
        if after_s is None or self._unreachable_s is None:
            return False
        overdue = self._clock.monotonic() - self._unreachable_s >= after_s
        return overdue and all(trial.fault and trial.fault.out_of_reach for trial in self.trials)

    # --- trying them ---

    async def _try(self, candidates: Iterable[Candidate]) -> Attached | None:
        """Probe all at once, join in order; what is still being probed then is called off."""
        trials = [self._trial(one) for one in candidates if not self._was_tried(one)]
        self.trials += trials
        attached: Attached | None = None
        limit = anyio.Semaphore(PROBES_AT_ONCE)
        try:
            async with anyio.create_task_group() as tasks:
                for trial in trials:
                    tasks.start_soon(_probe, trial, limit)
                for trial in trials:
                    await trial.probed.wait()
                    attached = await trial.join() if trial.fault is None else None
                    if attached is not None:
                        self._decided = trial
                        break
                tasks.cancel_scope.cancel()
        except BaseException:  # called off while the other probes ended
            if attached is not None:
                await attached.session.close()
            raise
        return attached

    def _trial(self, candidate: Candidate) -> Trial:
        return Trial(candidate, self._connection, self._sessions, self._clock)

    def _was_tried(self, candidate: Candidate) -> bool:
        """A place that two sources name is tried once, as the preferred one."""
        return candidate.address is not None and any(
            trial.candidate.address == candidate.address for trial in self.trials
        )

    # --- what came of it ---

    def _under_way(self) -> tuple[Trial | None, Phase]:
        """The first candidate that has no end yet, and the phase that it is in."""
        trial = next((trial for trial in self.trials if trial.fault is None), None)
        clock = trial.clock if trial else self._discovery
        return trial, next(reversed(clock.durations), Phase.DISCOVER)

    def _bug(self, error: Exception) -> Fault:
        """A bug must not end the daemon: it is a typed fault too."""
        trial, phase = self._under_way()
        fault = Fault.of(ErrorType.INTERNAL, phase, described(error))
        if trial is not None:
            self._decided, trial.fault = trial, fault
        return fault

    def _overrun(self) -> Fault:
        """Name the attempt's own deadline by the phase that it cut short."""
        cut, phase = self._under_way()
        seconds = self._connection.deadlines.attempt_s
        message = f"the attempt as a whole took longer than {seconds} s"
        fault = Fault.of(OVERRUN.get(phase, ErrorType.INIT_TIMEOUT), phase, message)
        if cut is not None:
            self._decided, cut.fault = cut, fault
        return fault

    def _decide(self) -> Fault:
        """The first candidate that time may mend decides; else the first of all."""
        failed = [(trial, trial.fault) for trial in self.trials if trial.fault is not None]
        if not failed:
            message = "no address is configured, and none was found"
            return Fault.of(ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER, message)
        transient = [one for one in failed if one[1].retry is Retry.TRANSIENT]
        self._decided, fault = (transient or failed)[0]
        return fault

    def document(self) -> AttemptDocument:
        """Return the attempt as it stands."""
        shown = self._decided or (self.trials[-1] if self.trials else None)
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
            shown.candidate.text if shown else None,
            shown.candidate.source if shown else None,
            tuple(trial.document() for trial in self.trials),
            dict(shown.seen) if shown else {},
        )


async def _probe(trial: Trial, limit: anyio.Semaphore) -> None:
    async with limit:
        await trial.probe()


def _is_wanted(trial: Trial) -> bool:
    """Whether it stands in the way of a cluster of our own.

    Ray's own note of the last cluster outlives a crash: one that leads to no head is no wish.
    """
    if trial.candidate.address is LOCAL:
        return False
    noted = trial.candidate.source == CURRENT_CLUSTER
    return not (noted and trial.fault is not None and trial.fault.phase in _BEFORE_A_HEAD)


_BEFORE_A_HEAD = frozenset({Phase.DISCOVER, Phase.RESOLVE, Phase.TCP, Phase.HEALTH})


OVERRUN = {
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
