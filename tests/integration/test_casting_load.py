"""Many messages: receipts add up, order holds, nothing comes twice, nothing is claimed falsely."""

import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.support.casting import casting, driven, ready
from tests.support.daemon import Daemon
from tests.support.ray import RayHead

pytestmark = pytest.mark.ray


@asynccontextmanager
async def sender(daemon: Daemon) -> Any:
    """Send over connections that stay open, so many at once."""
    connector = aiohttp.UnixConnector(str(daemon.socket), limit=64)
    async with aiohttp.ClientSession("http://castrayd", connector=connector) as web:

        async def send(**body: Any) -> Any:
            async with web.post("/api/messages", json=body) as answer:
                return await answer.json()

        yield send


async def inbox(daemon: Daemon, name: str) -> list[Any]:
    """Read a whole inbox, page by page."""
    found: list[Any] = []
    while True:
        since = found[-1]["seq"] if found else 0
        page = await daemon.get(f"/api/nodes/{name}/messages?since={since}&limit=1000")
        if not page["messages"]:
            return found
        found += page["messages"]


def numbers(messages: list[Any], who: str) -> list[int]:
    """Return what one sender has sent, in the order in which it was taken."""
    return [m["body"]["n"] for m in messages if m["from"] == who]


def in_time(spans: list[tuple[float, float]]) -> None:
    """See that nothing comes after what was sent when its receipt was there already."""
    soonest_end = float("inf")
    for began, ended in reversed(spans):
        assert began < soonest_end
        soonest_end = min(soonest_end, ended)


@pytest.mark.parametrize(
    "count", [2_500, pytest.param(25_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
async def test_receipts_add_up_and_order_holds(
    cluster: RayHead, cluster_python: str, tmp_path: Path, count: int
) -> None:
    """Four times `count` messages in all: one after another, and fanned out by two senders."""
    options = {"inbox_messages": "100000", "dedupe_messages": "200000"}
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "4", **options) as daemon:
        names = [node["name"] for node in await ready(daemon, 4)]
        one, two, *others = names
        async with sender(daemon) as send:
            for number in range(count):
                answer = await send(to=[others[0]], body={"n": number}, **{"from": one})
                assert answer["delivered"] == 1, answer
            receipts: list[Any] = []
            spans: dict[tuple[str, int], tuple[float, float]] = {}

            async def stream(who: str) -> None:
                """What one sender sends is handed over in order, without waiting for receipts."""
                async with anyio.create_task_group() as tasks:
                    slots = anyio.Semaphore(16)

                    async def cast(number: int) -> None:
                        async with slots:
                            body = {"n": count + number}
                            began = time.monotonic()
                            answer = await send(to=others, body=body, timeout_s=60, **{"from": who})
                            spans[who, count + number] = (began, time.monotonic())
                            receipts.extend(answer["receipts"])

                    for number in range(count * 3 // 4):
                        tasks.start_soon(cast, number)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream, one)
                tasks.start_soon(stream, two)
            assert len(receipts) == 2 * 2 * (count * 3 // 4)
            assert {receipt["outcome"] for receipt in receipts} == {"delivered"}

            again = await send(to=[others[0]], body={"n": 0}, id="same")
            assert again["delivered"] == 1
            assert (await send(to=[others[0]], body={"n": 0}, id="same"))["delivered"] == 1
        first, second = await inbox(daemon, others[0]), await inbox(daemon, others[1])
        assert len(first) == count + 2 * (count * 3 // 4) + 1
        assert len(second) == 2 * (count * 3 // 4)
        assert len({message["id"] for message in first}) == len(first)
        for who in (one, two):
            order = numbers(first, who)
            alone = count if who == one else 0
            assert order[:alone] == list(range(alone))
            assert order[alone:] == numbers(second, who)
            in_time([spans[who, number] for number in order[alone:]])


async def test_killed_recipient_is_never_claimed_to_have_it(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """Whatever is `delivered` is in the inbox, though its node was killed in the middle."""
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "1") as daemon:
        (node,) = await ready(daemon, 1)
        name, pid = node["name"], driven(cluster, cluster_python, "demo_node_1", "describe")["pid"]
        outcomes: dict[str, str] = {}
        async with sender(daemon) as send:
            for number in range(300):
                if number == 100:
                    os.kill(pid, signal.SIGKILL)
                answer = await send(to=[name], body=number, id=str(number), timeout_s=5)
                outcomes[str(number)] = answer["receipts"][0]["outcome"]
        await daemon.wait_status("ready again", lambda s: s["casting"]["ready"] == 1, 30)
        there = {message["id"] for message in await inbox(daemon, name)}
        delivered = {number for number, what in outcomes.items() if what == "delivered"}
        assert set(outcomes.values()) <= {"delivered", "unreachable", "timed_out"}
        assert "99" in delivered
        assert "299" in delivered
        assert delivered <= there
        assert {"unreachable", "timed_out"} & set(outcomes.values())
