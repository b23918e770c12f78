"""Casts over a link that a test holds: order, receipts, deadlines, repetitions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from castrayd.casting.messages import MAX_BODY_BYTES, Messages
from castrayd.refusals import ApiError, RecipientError


class _Link:
    """Keeps what is delivered; a name may be slow, or fail so many times."""

    def __init__(self) -> None:
        self.inboxes: dict[str, list[str]] = {}
        self.failures: dict[str, list[RecipientError]] = {}
        self.slow_s: dict[str, float] = {}
        self.calls = 0

    def attachment(self) -> None:
        """There always is one."""

    async def call(self, name: str, method: str, *arguments: Any, timeout_s: float) -> Any:
        assert timeout_s > 0
        self.calls += 1
        await anyio.sleep(self.slow_s.get(name, 0.0))
        if self.failures.get(name):
            raise self.failures[name].pop(0)
        if method == "datagram":
            return None
        self.inboxes.setdefault(name, []).extend(row[0] for row in arguments[0])
        return ["delivered"] * len(arguments[0])


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
