"""Reasons to begin an attempt before its time, seen with probes of the test's own."""

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from castrayd.core.candidates import Candidate, candidate
from castrayd.core.commands import WatchCues
from castrayd.core.states import Trigger
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.discovery import Discovery
from castrayd.probe.ladder import Climb
from castrayd.probe.peer import Identity
from castrayd.probe.resolve import endpoint_of
from castrayd.supervisor import connection as connections
from castrayd.supervisor import cues
from castrayd.supervisor.connection import NO_TOKEN, Connection

OWN, OTHER = "a" * 56, "b" * 56
ENDPOINT = endpoint_of("127.0.0.1", 1)
SILENT = AttachError(Fault.of(ErrorType.HEALTH_TIMEOUT, Phase.HEALTH, "silent"))


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Which cluster answers at which address; the others are silent for a while, then a fault."""
    answering: dict[str, str] = {}

    async def climb(address: Any, **_how: Any) -> Climb:
        if address.url not in answering:
            await anyio.sleep(0.3)
            raise SILENT
        return Climb(ENDPOINT, Identity("2.60.0", answering[address.url]), None)

    monkeypatch.setattr(cues, "climb", climb)
    monkeypatch.setattr(cues, "LOOK_S", 0.02)
    return answering


def _cues(
    *addresses: str,
    attached: str | None = None,
    lost: str | None = None,
    busy: Callable[[], Sequence[str]] = tuple,
) -> cues.Cues:
    """Cues of a daemon that wants the addresses, in order."""

    async def unknown(_connection: Connection) -> None:
        return None

    wanted = Connection(config_addresses=addresses, discovery=Discovery(kinds=("file",)))
    attachment: Any = attached and SimpleNamespace(
        attached=SimpleNamespace(
            candidate=candidate(attached, "config"),
            facts=SimpleNamespace(cluster_id=OWN),
            address=candidate(attached, "config").address,
            token=NO_TOKEN,
        )
    )
    return cues.Cues(
        connection=lambda: wanted,
        trials=(),
        lost=candidate(lost, "config") if lost else None,
        ray_version=unknown,
        attachment=attachment,
        known_nodes=1,
        busy=busy,
        rng=random.Random(1),
    )


async def _took_s(looked: cues.Cues, **holds: float) -> float:
    """Wait for a failback; returns how long it took."""
    began_s = anyio.current_time()
    with anyio.fail_after(5):
        order = WatchCues(epoch=1, kinds=frozenset({Trigger.FAILBACK}), **holds)
        assert await looked.wait(order) is Trigger.FAILBACK
    return anyio.current_time() - began_s


async def test_another_cluster_must_be_good_for_the_whole_hold(heads: dict[str, str]) -> None:
    """Its own hold for another cluster, another for the one that is attached already."""
    heads["x:1"] = OTHER
    assert 0.5 <= await _took_s(_cues("x:1", "a:1", attached="a:1"), hold_s=0.5) < 2.0
    heads["x:1"] = OWN
    assert await _took_s(_cues("x:1", "a:1", attached="a:1"), hold_s=60.0) < 0.5
    assert 0.4 <= await _took_s(_cues("x:1", "a:1", attached="a:1"), hold_s=60.0, same_hold_s=0.4)


async def test_move_elsewhere_waits_for_what_runs(heads: dict[str, str]) -> None:
    """A transfer on the attached cluster is not lost by a move; within one cluster nothing is."""
    heads["x:1"] = OTHER
    work = ["transfer 1"]
    looked = _cues("x:1", "a:1", attached="a:1", busy=lambda: work)
    async with anyio.create_task_group() as tasks:

        async def finish() -> None:
            await anyio.sleep(0.8)
            work.clear()

        tasks.start_soon(finish)
        assert await _took_s(looked, hold_s=0.2) >= 0.8
    work.append("transfer 2")
    heads["x:1"] = OWN
    assert await _took_s(looked, hold_s=60.0) < 0.5


async def test_hold_begins_anew_when_it_goes_away_in_between(heads: dict[str, str]) -> None:
    """Good for a while, then not, is not good."""
    looked = _cues("x:1", "a:1", attached="a:1")
    heads["x:1"] = OTHER
    async with anyio.create_task_group() as tasks:

        async def flap() -> None:
            await anyio.sleep(0.4)
            del heads["x:1"]
            await anyio.sleep(0.4)
            heads["x:1"] = OTHER

        tasks.start_soon(flap)
        assert await _took_s(looked, hold_s=0.6) >= 0.8 + 0.6


async def test_silent_candidates_hold_up_no_good_one(heads: dict[str, str]) -> None:
    """Five that say nothing, each for 0.3 s, are asked beside the one that answers."""
    heads["x:1"] = OWN
    silent = [f"s:{port}" for port in range(1, 6)]
    assert await _took_s(_cues(*silent, "x:1", "a:1", attached="a:1")) < 1.0


async def test_only_what_is_preferred_is_looked_at(heads: dict[str, str]) -> None:
    """A lower candidate that is good is none to move to."""
    heads["z:1"] = OTHER
    looked = _cues("x:1", "a:1", "z:1", attached="a:1")
    with anyio.move_on_after(1.0) as scope:
        await _took_s(looked, hold_s=0.0)
    assert scope.cancelled_caught


async def test_what_was_lost_is_watched_for() -> None:
    """After a loss the attached one, wherever it stood in the order, and no other."""
    assert [one.url for one in _cues("a:1", "b:2", lost="a:1")._out_of_reach()] == ["a:1"]


@pytest.mark.parametrize(
    ("tellings", "fires"),
    [
        ([[], ["b:2"]], True),
        ([["a:1"], ["a:1"]], False),
        ([["b:2"], ["?"], ["b:2"]], True),  # b:2 itself is new, at once
        ([["?"], ["a:1"]], False),
        ([["?"], ["?"]], False),
    ],
    ids=["new", "known", "first seen", "a kind is back", "a kind is broken"],
)
async def test_discovery_is_a_cue_when_it_tells_what_was_not_known(
    monkeypatch: pytest.MonkeyPatch, tellings: list[list[str]], *, fires: bool
) -> None:
    """A kind that breaks, or answers again, is no news; a:1 is configured, and known."""
    fault = Fault.of(ErrorType.CONFIG_INVALID, Phase.DISCOVER, "not believed")
    left = list(tellings)

    async def discover(*_: object) -> tuple[Candidate, ...]:
        told = left.pop(0) if left else tellings[-1]
        return tuple(
            Candidate("?", "discovery:file", None, fault)
            if one == "?"
            else candidate(one, "discovery:file")
            for one in told
        )

    monkeypatch.setattr(cues, "discover", discover)
    monkeypatch.setattr(connections, "discover", discover)
    monkeypatch.setattr(cues, "LOOK_S", 0.01)
    order = WatchCues(epoch=1, kinds=frozenset({Trigger.DISCOVERY}))
    with anyio.move_on_after(0.3) as scope:
        assert await _cues("a:1").wait(order) is Trigger.DISCOVERY
    assert fires is not scope.cancelled_caught
