"""Casts over a link that a test holds: order, receipts, deadlines, repetitions."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from castrayd.casting import messages as module
from castrayd.casting.messages import MAX_BODY_BYTES, UNDER_WAY, Messages
from castrayd.refusals import ApiError, RecipientError


class _Link:
    """Keeps what is delivered; a name may be slow, or fail so many times."""

    def __init__(self) -> None:
        self.inboxes: dict[str, list[str]] = {}
        self.failures: dict[str, list[Exception]] = {}
        self.slow_s: dict[str, float] = {}
        self.calls = 0
        self.under_way = 0
        self.most_under_way = 0
        """Characters of bodies."""

    def attachment(self) -> None:
        """There always is one."""

    async def call(self, name: str, method: str, *arguments: Any, timeout_s: float) -> Any:
        assert timeout_s > 0
        self.calls += 1
        await anyio.sleep(self.slow_s.get(name, 0.0))
        if self.failures.get(name):
            raise self.failures[name].pop(0)
        assert (method, len(arguments)) == ("datagram", 3)

    async def deliver(self, name: str, rows: list[tuple[str, str, str]], timeout_s: float) -> Any:
        assert timeout_s > 0
        self.calls += 1
        self.under_way += sum(len(body) for _, _, body in rows)
        self.most_under_way = max(self.most_under_way, self.under_way)
        await anyio.sleep(self.slow_s.get(name, 0.0))
        self.under_way -= sum(len(body) for _, _, body in rows)
        if self.failures.get(name):
            raise self.failures[name].pop(0)
        self.inboxes.setdefault(name, []).extend(row[0] for row in rows)
        return ["delivered"] * len(rows)


@asynccontextmanager
async def _messages() -> AsyncIterator[tuple[Messages, _Link]]:
    link = _Link()
    async with anyio.create_task_group() as tasks:
        yield Messages(cast("Any", link), tasks), link
        tasks.cancel_scope.cancel()


async def _send(messages: Messages, names: list[str], id_: str, **more: Any) -> Any:
    options = {"sender": "me", "timeout_s": 5.0, "retries": 0, **more}
    return await messages.cast(names, "hi", message_id=id_, **options)


async def test_order_holds_and_what_waits_goes_together() -> None:
    """However many are under way, one recipient has them in the order in which they were sent."""
    async with _messages() as (messages, link):
        link.slow_s["a"] = 0.01
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(_send, messages, ["a"], str(number))
        assert link.inboxes["a"] == [str(number) for number in range(200)]
        assert link.calls < 20


async def test_slow_recipient_holds_up_no_other() -> None:
    """All calls go out before any is awaited; the deadline is one for all."""
    async with _messages() as (messages, link):
        link.slow_s["slow"] = 10.0
        done = await _send(messages, ["slow", "a", "b"], "m", timeout_s=0.2)

        assert {r.recipient: r.outcome for r in done.receipts} == {
            "slow": "timed_out", "a": "delivered", "b": "delivered",
        }  # fmt: skip
        assert (done.delivered, done.failed) == (2, 1)
        assert all(r.latency_s < 0.15 for r in done.receipts if r.outcome == "delivered")


async def test_failure_is_repeated_as_often_as_asked() -> None:
    """With repetitions it arrives under the same id; without, it is told what happened."""
    async with _messages() as (messages, link):
        gone = [RecipientError("unreachable", "gone")] * 2
        link.failures["a"] = list(gone)
        done = await _send(messages, ["a"], "m", retries=2)
        assert done.receipts[0].outcome == "delivered"
        link.failures["a"] = list(gone)
        done = await _send(messages, ["a"], "n")
        assert (done.receipts[0].outcome, done.receipts[0].error) == ("unreachable", "gone")
        assert link.inboxes["a"] == ["m"]


@pytest.mark.parametrize(
    ("type_", "outcome"),
    [
        ("unreachable", "unreachable"),
        ("timed_out", "timed_out"),
        ("interrupted", "timed_out"),
        ("internal", "timed_out"),
    ],
)
@pytest.mark.parametrize("name", ["a", "udp:10.0.0.1:9"])
async def test_what_may_have_come_is_unknown(type_: str, outcome: str, name: str) -> None:
    """Only where nothing went out nothing can have come."""
    async with _messages() as (messages, link):
        link.failures = {"a": [RecipientError(type_, "why")], "me": [RecipientError(type_, "why")]}
        done = await _send(messages, [name], "m")

        assert (done.receipts[0].outcome, done.failed) == (outcome, 1)
        assert "why" in str(done.receipts[0].error)


@pytest.mark.parametrize("name", ["a", "udp:10.0.0.1:9"])
async def test_what_nobody_foresaw_fails_one_message(name: str) -> None:
    """It may have come; the next one goes out as ever."""
    async with _messages() as (messages, link):
        link.failures = {"a": [KeyError("odd")], "me": [KeyError("odd")]}
        done = await _send(messages, [name, "b"], "m")
        assert [one.outcome for one in done.receipts] == ["timed_out", "delivered"]
        assert "KeyError" in str(done.receipts[0].error)
        assert (await _send(messages, [name], "n")).failed == 0


async def test_outcomes_that_are_too_few_fail_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever counts them wrong."""
    async with _messages() as (messages, link):
        with monkeypatch.context() as patch:
            patch.setattr(link, "deliver", _nothing)
            done = await _send(messages, ["a"], "m")
        assert (done.receipts[0].outcome, done.failed) == ("timed_out", 1)
        assert (await _send(messages, ["a"], "n")).delivered == 1


async def _nothing(*_: object) -> list[str]:
    return []


async def test_what_may_have_come_once_stays_unknown() -> None:
    """A repetition that does not go out tells nothing of the one that did."""
    async with _messages() as (messages, link):
        link.failures["a"] = [
            RecipientError("timed_out", "late"),
            RecipientError("unreachable", "gone"),
        ]
        done = await _send(messages, ["a"], "m", retries=1)
        assert (done.receipts[0].outcome, done.receipts[0].error) == ("timed_out", "gone")


async def test_large_message_to_many_is_under_way_to_some_at_a_time() -> None:
    """Everybody gets it, in the room that there is; what is waited for is bounded too."""
    async with _messages() as (messages, link):
        names = [f"n{number}" for number in range(3_000)]
        link.slow_s = dict.fromkeys(names, 0.01)
        done = await messages.cast(
            names, "x" * 60_000, sender="me", message_id="m", timeout_s=30, retries=0
        )
        assert done.delivered == 3_000
        assert UNDER_WAY / 2 < link.most_under_way < UNDER_WAY + 2 * MAX_BODY_BYTES


async def test_stuck_recipient_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for room meanwhile goes out then, and what nobody waits for does not."""
    monkeypatch.setattr(module, "UNDER_WAY", 1)
    async with _messages() as (messages, link):
        link.slow_s["slow"] = 0.3
        done: dict[str, Any] = {}

        async def send(name: str, timeout_s: float) -> None:
            done[name] = await _send(messages, [name], name, timeout_s=timeout_s)

        async with anyio.create_task_group() as tasks:
            for name, timeout_s in (("slow", 5), ("late", 0.1), ("a", 5), ("b", 5)):
                tasks.start_soon(send, name, timeout_s)
        outcomes = {name: one.receipts[0].outcome for name, one in done.items()}
        assert outcomes == {
            "late": "timed_out", "slow": "delivered", "a": "delivered", "b": "delivered",
        }  # fmt: skip
        assert "late" not in link.inboxes


async def test_more_receipts_than_can_be_waited_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By name, before anything is sent; once there are less it is taken."""
    monkeypatch.setattr(module, "LETTERS", 3)
    async with _messages() as (messages, link):
        link.slow_s["a"] = 0.2
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send, messages, ["a", "b"], "m")
            await anyio.sleep(0.05)
            with pytest.raises(ApiError, match="busy"):
                await _send(messages, ["c", "d"], "n")
        assert (await _send(messages, ["c", "d"], "n")).delivered == 2


async def test_datagram_is_sent_and_no_more_is_claimed() -> None:
    """Nobody confirms it: neither delivered nor failed."""
    async with _messages() as (messages, _):
        done = await _send(messages, ["udp:10.0.0.1:9"], "m")

        assert (done.receipts[0].outcome, done.delivered, done.failed) == ("sent", 0, 0)


async def test_large_body_is_refused_before_anything_is_sent() -> None:
    """More than a message may have is a file's business."""
    async with _messages() as (messages, link):
        with pytest.raises(ApiError, match="too_large"):
            await messages.cast(
                ["a"], "x" * MAX_BODY_BYTES, sender="me", message_id=None, timeout_s=1, retries=0
            )
        assert not link.calls


@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_deep_body_is_refused_before_anything_is_sent(opening: str) -> None:
    """A hundred lists or objects within each other are taken, more are not."""
    closing = "]" if opening == "[" else "}"

    def body(depth: int) -> Any:
        return json.loads(opening * (depth - 1) + "[]" + closing * (depth - 1))

    async with _messages() as (messages, link):
        options: Any = {"sender": "me", "message_id": None, "timeout_s": 1, "retries": 0}
        with pytest.raises(ApiError, match="bad_request") as caught:
            await messages.cast(["a"], body(101), **options)
        assert caught.value.field == "body"
        assert not link.calls
        assert (await messages.cast(["a"], body(100), **options)).delivered == 1
