"""What is wanted no more: removed where it is ours, and nothing else is."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from castrayd.casting.placement import Placement
from castrayd.casting.wanted import WantedNode
from castrayd.refusals import RecipientError, RecipientErrorType

US, HERE = "daemon-a", "cluster-1"


class Link:
    """A cluster on which one casting node has the name."""

    daemon_id = US

    def __init__(self, answer: dict[str, str] | RecipientErrorType) -> None:
        self._answer = answer
        self.removed: list[tuple[str, str | None]] = []

    def attachment(self) -> Any:
        return SimpleNamespace(attached=SimpleNamespace(facts=SimpleNamespace(cluster_id=HERE)))

    async def describe(self, _name: str) -> dict[str, str]:
        if isinstance(self._answer, RecipientErrorType):
            raise RecipientError(self._answer, "says nothing")
        return self._answer

    async def remove(self, name: str, actor_id: str | None = None) -> None:
        self.removed.append((name, actor_id))


class Book:
    """What is remembered: of rows, and of sightings."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget(self, name: str) -> None:
        self.forgotten.append(name)


async def _cleared(link: Link, **facts: Any) -> list[str]:
    book = Book()
    seen = SimpleNamespace(forget=lambda _name: None)
    placement = Placement(cast("Any", link), cast("Any", book), cast("Any", seen), lambda: None)  # type: ignore[arg-type,return-value]
    await placement.clear(WantedNode("x", wanted=False, **facts))
    return book.forgotten


async def test_own_actor_is_removed_by_its_id() -> None:
    """Whoever has the name by now, and whether it answers: the id tells."""
    link = Link(RecipientErrorType.TIMED_OUT)
    assert await _cleared(link, cluster_id=HERE, actor_id="a1") == ["x"]
    assert link.removed == [("x", "a1")]


async def test_own_actor_that_the_ledger_does_not_know_is_asked() -> None:
    link = Link({"owner": US, "actor_id": "a2"})
    assert await _cleared(link) == ["x"]
    assert link.removed == [("x", "a2")]


@pytest.mark.parametrize(
    "answer", [{"owner": "daemon-b", "actor_id": "b1"}, RecipientErrorType.UNREACHABLE]
)
async def test_what_is_not_there_or_not_ours_is_forgotten(answer: Any) -> None:
    link = Link(answer)
    assert await _cleared(link) == ["x"]
    assert link.removed == []


async def test_who_says_nothing_may_be_anybodys() -> None:
    link = Link(RecipientErrorType.TIMED_OUT)
    with pytest.raises(RecipientError):
        await _cleared(link)
    assert link.removed == []


async def test_what_lives_on_another_cluster_is_remembered_until_that_is_back() -> None:
    link = Link(RecipientErrorType.UNREACHABLE)
    assert await _cleared(link, cluster_id="cluster-2", actor_id="a1") == []
    assert link.removed == []
