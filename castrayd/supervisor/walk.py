"""The walk up the ladder of probes for its own sake: each rung with its time and what was seen.

Run by `doctor`. Who is shown the token, and in which order the rungs come, is the ladder's own
business, the same as for an attempt. No session is spent.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio

from castrayd.core.candidates import Candidate
from castrayd.core.phases import PhaseClock
from castrayd.core.states import Mode
from castrayd.errors import AttachError, Fault, Phase
from castrayd.probe.grpc_library import load_grpc
from castrayd.probe.ladder import climb
from castrayd.supervisor.attempt import OVERRUN, PROBES_AT_ONCE
from castrayd.supervisor.connection import Connection, Token
from castrayd.supervisor.trial import deadline
from castrayd.telemetry.clock import Clock

__all__ = ("StepDocument", "StepOutcome", "WalkDocument", "walk_all")

WALK_S: Final = 4.5
"""For one candidate as a whole: somebody waits for it."""

Expect = Callable[[], Awaitable[str | None]]


class StepOutcome(StrEnum):
    """What came of one rung."""

    OK = "ok"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True)
class StepDocument:
    """One rung of the ladder."""

    name: Phase
    outcome: StepOutcome
    seconds: float | None
    """None for a rung that was not reached."""
    seen: Mapping[str, str | None]
    """By name; None for what the peer did not tell."""


@dataclass(frozen=True, slots=True)
class WalkDocument:
    """One candidate, walked."""

    address: str
    source: str
    mode: Mode | None
    """None where the address is none."""
    hearsay: bool
    """Nobody has named it."""
    ok: bool
    steps: tuple[StepDocument, ...]
    error: Fault | None
    """Of the step that failed."""


async def walk_all(
    candidates: Sequence[Candidate],
    connection: Connection,
    token: Token,
    expect: Expect,
    clock: Clock,
) -> tuple[WalkDocument, ...]:
    """Walk to all candidates, side by side; returns them in their order."""
    walks = [_Walk(one, clock) for one in candidates]
    limit = anyio.Semaphore(PROBES_AT_ONCE)
    if walks:
        await load_grpc()  # its time is no step's

    async def run(walk: _Walk) -> None:
        async with limit:
            await walk.run(connection, token, expect)

    async with anyio.create_task_group() as tasks:
        for walk in walks:
            tasks.start_soon(run, walk)
    return tuple(walk.document() for walk in walks)


class _Walk:
    """One candidate under way."""

    def __init__(self, candidate: Candidate, clock: Clock) -> None:
        self._candidate = candidate
        self._fault = candidate.fault
        self._clock = PhaseClock(clock.monotonic)
        self._seen: dict[Phase, dict[str, str | None]] = {}

    async def run(self, connection: Connection, token: Token, expect: Expect) -> None:
        """Climb as an attempt would; a failure is noted."""
        address = self._candidate.address
        if address is None:
            return
        try:
            with deadline(WALK_S, self._overrun):
                await climb(
                    address,
                    clock=self._clock,
                    deadlines=connection.deadlines,
                    credentials=connection.credentials(token),
                    expect=expect,
                    hearsay=self._candidate.hearsay,
                    tell=self._note,
                )
        except AttachError as error:
            self._fault = error.fault

    def _note(self, phase: Phase, seen: Mapping[str, str | None]) -> None:
        self._seen.setdefault(phase, {}).update(seen)

    def _overrun(self) -> Fault:
        phase = self._clock.last or Phase.RESOLVE
        message = f"the walk as a whole took longer than {WALK_S} s"
        return Fault.of(OVERRUN[phase], phase, message)

    def document(self) -> WalkDocument:
        """Return what came of it."""
        one = self._candidate
        mode = one.address.mode if one.address else None
        steps = tuple(self._step(phase) for phase in _rungs(mode))
        ok = self._fault is None
        return WalkDocument(one.text, one.source, mode, one.hearsay, ok, steps, self._fault)

    def _step(self, phase: Phase) -> StepDocument:
        seconds, outcome = self._clock.durations.get(phase), StepOutcome.OK
        if self._fault is not None and phase is (self._clock.last or self._fault.phase):
            outcome = StepOutcome.FAILED
        elif seconds is None:
            outcome = StepOutcome.NOT_REACHED
        return StepDocument(phase, outcome, seconds, self._seen.get(phase, {}))


def _rungs(mode: Mode | None) -> tuple[Phase, ...]:
    """By Ray Client the ladder ends where the server answers."""
    if mode is None:
        return ()
    reach = (Phase.RESOLVE, Phase.TCP, Phase.HEALTH)
    return reach if mode is Mode.CLIENT else (*reach, Phase.IDENTITY, Phase.LOCAL_NODE)
