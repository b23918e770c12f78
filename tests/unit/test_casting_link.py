"""What is made of what casting nodes answer: any Ray job may have an actor of such a name."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from castrayd.casting.link import Link
from castrayd.refusals import RecipientError

FACTS = {
    "name": "x", "owner": "o" * 32, "required": True, "node_id": "n", "address": "10.0.0.1",
    "hostname": "h", "port": None, "reason": None, "roots": {"files": "/f"},
    "inbox": {"waiting": 0}, "actor_id": "a",
}  # fmt: skip
ROW = {
    "recipient": "b", "state": "running", "bytes_verified": None, "bytes_sent": 0, "sha256": None,
    "path": None, "error": None,
}  # fmt: skip
PROGRESS = {"state": "running", "bytes_total": None, "sha256": None, "recipients": [ROW]}


class _Session:
    """Has every question answered alike."""

    def __init__(self, answer: Any) -> None:
        self._answer = {"value": answer}

    async def cast(self, _op: str, **_arguments: Any) -> dict[str, Any]:
        return self._answer

    async def deliver(self, _name: str, _rows: Any, **_more: Any) -> dict[str, Any]:
        return self._answer


def _link(answer: Any) -> Link:
    attachment = SimpleNamespace(session=_Session(answer))
    return Link(cast("Any", SimpleNamespace(attachment=attachment)), "d" * 32)


@pytest.mark.parametrize(
    "answer", [None, [], {}, ["delivered"], ["delivered", 1], ["delivered"] * 3, "ab"]
)
async def test_outcomes_are_as_many_as_messages(answer: Any) -> None:
    """And words; others tell nothing of what became of a message."""
    rows = [("1", "me", "{}"), ("2", "me", "{}")]
    with pytest.raises(RecipientError, match=r"^internal: .*makes no sense"):
        await _link(answer).deliver("x", rows, 1.0)

    assert await _link(["delivered", "full"]).deliver("x", rows, 1.0) == ["delivered", "full"]


@pytest.mark.parametrize(
    "other",
    [{"name": "y"}, {"owner": None}, {"node_id": 1}, {"roots": None}, {"inbox": []}, {"port": "1"}],
)
async def test_node_describes_itself_wholly(other: dict[str, Any]) -> None:
    """What is read of it is there, and under its own name."""
    with pytest.raises(RecipientError, match=r"^internal: "):
        await _link(FACTS | other).describe("x")
    for key in FACTS.keys() - {"actor_id"}:
        with pytest.raises(RecipientError, match=r"^internal: "):
            await _link({k: v for k, v in FACTS.items() if k != key}).describe("x")

    assert await _link(FACTS | {"more": 1}).describe("x") == FACTS | {"more": 1}


@pytest.mark.parametrize(
    ("method", "good", "bad"),
    [
        ("host", {"cpu": None}, []),
        ("read", {"messages": [{"seq": 1, "body": "{}"}]}, {"messages": [{"seq": 1, "body": {}}]}),
        ("datagram", None, {}),
        ("files", {"files": [{"name": "a"}]}, {"files": None}),
        ("files", {"error": {"type": "not_found", "message": "a"}}, {"error": "a"}),
        ("sending", None, {}),
        ("sending", PROGRESS, PROGRESS | {"recipients": [ROW | {"bytes_sent": None}]}),
        ("sending", PROGRESS | {"error": None}, PROGRESS | {"error": {"type": "gone"}}),
        ("sending", PROGRESS | {"error": None}, PROGRESS | {"sha256": "\ud800"}),
        ("send", PROGRESS | {"identity": {"mtime_ns": 7}}, PROGRESS | {"identity": 7}),
        ("file_abandon", {}, None),
        (
            "file_abandon",
            {"done": {"path": "files:x", "bytes": 1, "sha256": "ab"}},
            {"done": {"path": "files:x"}},
        ),
    ],
)
async def test_answer_has_the_shape_of_its_method(method: str, good: Any, bad: Any) -> None:
    """It is handed on as it came, or is a failure of that node."""
    with pytest.raises(RecipientError, match=f"^internal: .*`{method}` makes no sense"):
        await _link(bad).call("x", method, timeout_s=1.0)

    assert await _link(good).call("x", method, timeout_s=1.0) is good
