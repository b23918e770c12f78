"""The doctor's walk and verdict, over a ladder that answers as it is told."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from castrayd.core.candidates import Candidate, candidate
from castrayd.core.policy import Deadlines
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.host import HostCheck, Verdict
from castrayd.supervisor import doctor, walk
from castrayd.supervisor.connection import NO_TOKEN, Connection
from castrayd.supervisor.walk import StepOutcome, WalkDocument
from castrayd.telemetry.clock import Clock

OK, FAILED, NOT_REACHED = StepOutcome.OK, StepOutcome.FAILED, StepOutcome.NOT_REACHED


class _Ladder:
    """In the place of the real one."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.phases = list(Phase)[1:6]
        self.hearsay: list[bool] = []
        self.sleep_s = 0.0
        self.now = self.most = 0

    async def climb(self, _address: Any, **how: Any) -> None:
        self.hearsay.append(how["hearsay"])
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for phase in self.phases:
                with how["clock"].phase(phase):
                    await anyio.sleep(self.sleep_s)
                    how["tell"](phase, {"in": phase})
            if self.fault is not None:
                raise AttachError(self.fault)
        finally:
            self.now -= 1


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> _Ladder:
    """The ladder of this test."""
    one = _Ladder()
    monkeypatch.setattr(walk, "climb", one.climb)
    return one


async def _walked(*candidates: Candidate) -> tuple[WalkDocument, ...]:
    async def expect() -> str | None:
        return None

    return await walk.walk_all(candidates, Connection(), NO_TOKEN, expect, Clock())


def _outcomes(document: WalkDocument) -> list[StepOutcome]:
    return [step.outcome for step in document.steps]


async def test_good_walk_tells_every_rung(ladder: _Ladder) -> None:
    """With its time and what was seen."""
    (done,) = await _walked(candidate("h:1", "config"))

    assert (done.ok, done.error, ladder.hearsay) == (True, None, [False])
    assert _outcomes(done) == [OK] * 5
    assert all(step.seconds is not None and step.seen for step in done.steps)


async def test_rung_that_breaks_is_the_one_entered_last(ladder: _Ladder) -> None:
    """Whatever phase its fault names: a head may go away in the middle of a later rung."""
    ladder.phases = [Phase.RESOLVE, Phase.TCP, Phase.HEALTH, Phase.IDENTITY]
    ladder.fault = Fault.of(ErrorType.TCP_RESET, Phase.HEALTH, "gone")
    (done,) = await _walked(candidate("h:1", "config"))

    assert _outcomes(done) == [OK, OK, OK, FAILED, NOT_REACHED]
    assert done.error is ladder.fault


async def test_hearsay_is_walked_as_such(ladder: _Ladder) -> None:
    """A raylet is looked for before the identity is; what comes after is not reached."""
    ladder.phases = [Phase.RESOLVE, Phase.TCP, Phase.HEALTH, Phase.LOCAL_NODE]
    ladder.fault = Fault.of(ErrorType.NO_LOCAL_NODE, Phase.LOCAL_NODE, "none")
    (done,) = await _walked(replace(candidate("h:1", "discovery:raylet"), hearsay=True))

    assert (done.hearsay, ladder.hearsay) == (True, [True])
    assert _outcomes(done) == [OK, OK, OK, NOT_REACHED, FAILED]


async def test_address_that_is_none_is_not_walked(ladder: _Ladder) -> None:
    """Its own fault says why."""
    (done,) = await _walked(candidate("nope", "config"))

    assert (done.ok, done.steps, done.mode, ladder.hearsay) == (False, (), None, [])
    assert done.error is not None
    assert done.error.type is ErrorType.ADDRESS_INVALID


async def test_client_mode_has_a_short_ladder(ladder: _Ladder) -> None:
    """The server tells neither version nor cluster."""
    ladder.phases = [Phase.RESOLVE, Phase.TCP, Phase.HEALTH]
    (done,) = await _walked(candidate("ray://h:1", "config"))
    assert _outcomes(done) == [OK] * 3


async def test_candidates_are_walked_side_by_side_eight_at_once(ladder: _Ladder) -> None:
    """And told in their order."""
    ladder.sleep_s = 0.02
    done = await _walked(*(candidate(f"h:{port}", "config") for port in range(1, 21)))

    assert ladder.most == 8
    assert [one.address for one in done] == [f"h:{port}" for port in range(1, 21)]


async def test_walk_that_takes_too_long_is_cut(
    ladder: _Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And named by the rung that it was on."""
    monkeypatch.setattr(walk, "WALK_S", 0.1)
    ladder.sleep_s = 5.0
    (done,) = await _walked(candidate("h:1", "config"))

    assert _outcomes(done) == [FAILED, *[NOT_REACHED] * 4]
    assert done.error is not None
    assert done.error.type is ErrorType.DNS_TIMEOUT


def test_no_step_takes_longer_than_the_doctor_has_patience() -> None:
    """Settings may shorten a step, not lengthen it."""
    quick = doctor._quick(Connection(deadlines=Deadlines(tcp_s=0.1, local_node_s=60.0))).deadlines
    assert (quick.tcp_s, quick.local_node_s) == (0.1, 1.0)


def _document(*, ok: bool, hearsay: bool = False) -> WalkDocument:
    return WalkDocument("h:1", "config", None, hearsay, ok, (), None)


GOOD, BAD = _document(ok=True), _document(ok=False)
STALE = _document(ok=False, hearsay=True)


@pytest.mark.parametrize(
    ("walks", "own", "well"),
    [
        ([GOOD], False, True), ([BAD], False, False), ([GOOD, BAD], False, False),
        ([GOOD, STALE], False, True), ([STALE], False, False), ([STALE], True, True),
        ([], False, False), ([], True, True), ([BAD], True, False),
    ],
)  # fmt: skip
def test_all_is_well_when_nothing_that_was_named_fails(
    walks: list[WalkDocument], own: bool, well: bool
) -> None:
    """A stale note of Ray's spoils nothing; a check that failed spoils all, a warning nothing."""
    warned = HostCheck("a", Verdict.WARNING, "")
    failed = HostCheck("b", Verdict.FAILED, "")

    assert doctor._is_well(walks, [warned], own_cluster=own) is well
    assert not doctor._is_well(walks, [warned, failed], own_cluster=own)
