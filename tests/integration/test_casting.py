"""Casting nodes and messages on a real cluster of four nodes whose Python has no castrayd."""

import io
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.support.casting import casting, driven, read_independently, ready
from tests.support.processes import until
from tests.support.ray import RayHead

pytestmark = pytest.mark.ray


async def test_messages_go_to_one_to_a_group_and_to_all(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """Demo nodes come up with ports, and what is sent is read back by a driver of others."""
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "4") as daemon:
        nodes = await ready(daemon, 4)
        assert {node["state"] for node in nodes} == {"ready"}
        assert len({node["ray_node_id"] for node in nodes}) == 4
        assert all(node["port"] > 0 for node in nodes)

        one, two, three, four = (node["name"] for node in nodes)
        await daemon.ask("PUT", "/api/groups/pair", {"members": [two, three]})
        for to, body in (([one], "to one"), ("group:pair", "to two"), ("all", {"to": "all"})):
            status, cast = await daemon.ask("POST", "/api/messages", {"to": to, "body": body})
            assert status == 200
            assert cast["failed"] == 0, cast
        status, cast = await daemon.ask(
            "POST", "/api/messages", {"to": "all", "from": four, "body": "not to me"}
        )
        assert [r["recipient"] for r in cast["receipts"]] == [one, two, three]

        unified = (await daemon.get("/api/cluster/nodes"))["nodes"]
        assert sorted(n for node in unified for n in node["casting_nodes"]) == [
            one,
            two,
            three,
            four,
        ]
        for node in unified:
            assert node["use"]["memory_total_bytes"] > node["use"]["memory_available_bytes"] > 0
            assert node["use"]["disk_free_bytes"] > 0

        everyone = [{"to": "all"}, "not to me"]
        wanted = {
            one: ["to one", *everyone],
            two: ["to two", *everyone],
            three: ["to two", *everyone],
            four: [{"to": "all"}],
        }
        for name, bodies in wanted.items():
            read = read_independently(cluster, cluster_python, name)
            assert [message["body"] for message in read] == bodies
        assert read_independently(cluster, cluster_python, one)[-1]["from"] == four


async def test_datagrams_come_in_and_go_out(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """A program without Ray talks to a casting node by UDP, and hears it."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        status, node = await daemon.ask("POST", "/api/nodes", {"name": "udp", "port": 0})
        assert status == 201
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.bind((node["address"], 0))
            program.settimeout(5)
            host, port = program.getsockname()
            program.sendto(b'{"hello": 1}', (node["address"], node["port"]))
            program.sendto(b"\xff\x00", (node["address"], node["port"]))
            until(lambda: len(read_independently(cluster, cluster_python, "udp")) == 2, 20, "two")
            status, cast = await daemon.ask(
                "POST", "/api/messages", {"to": [f"udp:{host}:{port}"], "from": "udp", "body": "hi"}
            )
            assert cast["receipts"][0]["outcome"] == "sent"
            assert program.recv(100) == b'"hi"'
        inbox = (await daemon.get("/api/nodes/udp/messages"))["messages"]
        assert [m["body"] for m in inbox] == [{"hello": 1}, {"base64": "/wA="}]
        assert inbox[0]["from"] == f"udp:{host}:{port}"


async def test_inbox_that_is_full_says_so_and_recovers(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """What finds no room is refused by name; acknowledged messages make room; ids come once."""
    async with casting(cluster, cluster_python, tmp_path, inbox_messages="3") as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "small"})

        async def send(body: Any, **more: Any) -> str:
            _, cast = await daemon.ask(
                "POST", "/api/messages", {"to": ["small"], "body": body, **more}
            )
            receipt = cast["receipts"][0]
            return str(receipt["error"] or receipt["outcome"])

        assert [await send(1, id="same"), await send(1, id="same")] == ["delivered"] * 2
        assert [await send(n) for n in range(3)] == ["delivered", "delivered", "inbox_full"]
        inbox = (await daemon.get("/api/nodes/small/messages"))["messages"]
        assert [m["body"] for m in inbox] == [1, 0, 1]
        full = driven(cluster, cluster_python, "small", "describe")["inbox"]
        assert (full["waiting"], full["capacity"], full["refused"]) == (3, 3, 1)
        last = inbox[-1]["seq"]
        await daemon.get(f"/api/nodes/small/messages?since={last}&ack")
        assert driven(cluster, cluster_python, "small", "describe")["inbox"]["waiting"] == 0
        assert await send("again") == "delivered"


async def test_inbox_is_followed(cluster: RayHead, cluster_python: str, tmp_path: Path) -> None:
    """What is there comes, and what is sent; a node that is frozen meanwhile is waited for."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "told"})
        assert (await daemon.ask("GET", "/api/nodes/nobody/messages?follow"))[0] == 404
        await daemon.ask("POST", "/api/messages", {"to": ["told"], "body": 1})
        pid = driven(cluster, cluster_python, "told", "describe")["pid"]
        os.kill(pid, signal.SIGSTOP)
        connector = aiohttp.UnixConnector(str(daemon.socket))
        async with aiohttp.ClientSession("http://castrayd", connector=connector) as web:
            began = time.monotonic()
            async with web.get("/api/nodes/told/messages?follow") as stream:
                assert (stream.status, time.monotonic() - began < 3) == (200, True)
                os.kill(pid, signal.SIGCONT)
                with anyio.fail_after(30):
                    assert json.loads(await stream.content.readline())["body"] == 1
                    await daemon.ask("POST", "/api/messages", {"to": ["told"], "body": 2})
                    assert json.loads(await stream.content.readline())["body"] == 2


async def test_id_is_its_senders_and_of_one_message(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """What one sender has sent under an id hides no other's, and no other message of its own."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "ids"})

        async def send(who: str, body: str) -> Any:
            message = {"to": ["ids"], "from": who, "body": body, "id": "1"}
            _, cast = await daemon.ask("POST", "/api/messages", message)
            return cast["receipts"][0]

        for who in ("a", "b", "a"):
            assert (await send(who, f"by {who}"))["outcome"] == "delivered"
        reused = await send("a", "another")
        assert (reused["outcome"], reused["error"]) == ("refused", "id_reused")
        inbox = (await daemon.get("/api/nodes/ids/messages"))["messages"]
        assert [(m["from"], m["body"]) for m in inbox] == [("a", "by a"), ("b", "by b")]


async def test_body_comes_out_as_it_went_in_or_is_refused(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """By request and by datagram; one that nests too deeply leaves the inbox readable."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        _, node = await daemon.ask("POST", "/api/nodes", {"name": "deep", "port": 0})
        deepest = json.loads("[" * 100 + "]" * 100)
        bodies = [deepest, 2**70, 1e300, None, "\u4f60 \U0001f600 \u2028", {"a": [{"b": ""}]}]
        for body in bodies:
            _, cast = await daemon.ask("POST", "/api/messages", {"to": ["deep"], "body": body})
            assert cast["delivered"] == 1, cast
        for depth in (101, 985, 100_000):
            data = b'{"to": ["deep"], "body": ' + b"[" * depth + b"]" * depth + b"}"
            status, reply = await daemon.ask("POST", "/api/messages", data=io.BytesIO(data))
            assert (status, reply["error"]["field"]) == (400, "body"), reply
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            for data in (b"[" * 985 + b"]" * 985, b"NaN", b'"last"'):
                program.sendto(data, (node["address"], node["port"]))

        async def inbox() -> list[Any]:
            return list((await daemon.get("/api/nodes/deep/messages"))["messages"])

        with anyio.fail_after(20):
            while len(await inbox()) < len(bodies) + 2:
                await anyio.sleep(0.1)
        assert [m["body"] for m in await inbox()] == [*bodies, "NaN", "last"]
        assert driven(cluster, cluster_python, "deep", "describe")["inbox"]["refused"] == 1


async def test_followers_hold_up_no_reader(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """However many wait at an inbox, it can be read and acknowledged; all hear what comes."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "heard"})
        connector = aiohttp.UnixConnector(str(daemon.socket), limit=100)
        heard: list[Any] = []

        async def follow(web: aiohttp.ClientSession) -> None:
            async with web.get("/api/nodes/heard/messages?follow") as stream:
                heard.append(json.loads(await stream.content.readline())["body"])

        async with (
            aiohttp.ClientSession("http://castrayd", connector=connector) as web,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(24):
                tasks.start_soon(follow, web)
            await anyio.sleep(1)
            for _ in range(5):
                with anyio.fail_after(3):
                    assert await daemon.get("/api/nodes/heard/messages?ack") == {"messages": []}
            await daemon.ask("POST", "/api/messages", {"to": ["heard"], "body": "news"})
            with anyio.fail_after(8):
                while len(heard) < 24:
                    await anyio.sleep(0.1)
        assert heard == ["news"] * 24


async def test_message_that_was_under_way_when_its_node_died_is_unknown(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """It may be in the inbox: only what was never sent is unreachable."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        await daemon.ask("POST", "/api/nodes", {"name": "mortal"})
        pid = driven(cluster, cluster_python, "mortal", "describe")["pid"]
        os.kill(pid, signal.SIGSTOP)
        receipts: list[Any] = []

        async def send() -> None:
            message = {"to": ["mortal", "nobody"], "body": "last words", "timeout_s": 15}
            receipts.extend((await daemon.ask("POST", "/api/messages", message))[1]["receipts"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.sleep(1)
            await daemon.ask("DELETE", "/api/nodes/mortal")
        outcomes = [receipt["outcome"] for receipt in receipts]
        assert outcomes == ["timed_out", "unreachable"], receipts
        assert "died" in receipts[0]["error"]


async def test_killed_node_comes_back_with_its_inbox(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """What was delivered outlives the actor's process; one that is gone is never `delivered`."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        _, before = await daemon.ask("POST", "/api/nodes", {"name": "phoenix", "port": 0})
        await daemon.ask("POST", "/api/messages", {"to": ["phoenix", "nobody"], "body": "kept"})
        os.kill(driven(cluster, cluster_python, "phoenix", "describe")["pid"], signal.SIGKILL)
        _, cast = await daemon.ask("POST", "/api/messages", {"to": ["phoenix"], "body": "lost?"})
        assert cast["receipts"][0]["outcome"] in {"unreachable", "timed_out"}
        await daemon.wait_status("ready again", lambda s: s["casting"]["ready"] == 1, 30)
        _, cast = await daemon.ask(
            "POST", "/api/messages", {"to": ["phoenix"], "body": "again", "retries": 20}
        )
        assert cast["delivered"] == 1
        inbox = (await daemon.get("/api/nodes/phoenix/messages"))["messages"]
        assert [m["body"] for m in inbox if m["body"] != "lost?"] == ["kept", "again"]
        assert (await daemon.get("/api/nodes/phoenix"))["port"] == before["port"]


async def test_required_node_that_is_missing_degrades(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """Named with the reason, after it may settle; an optional one is nobody's loss."""
    async with casting(cluster, cluster_python, tmp_path) as daemon:
        nowhere = {"hostname": "no-such-host"}
        await daemon.ask("POST", "/api/nodes", {"name": "may", "on": nowhere, "required": False})
        await daemon.wait_state("connected")
        _, made = await daemon.ask("POST", "/api/nodes", {"name": "must", "on": nowhere})
        assert (made["state"], made["reason"]) == ("pending", "no living node is such a place")
        status = await daemon.wait_state("degraded")
        (reason,) = status["reasons"]
        assert reason["type"] == "casters_missing"
        assert "must" in reason["message"]
        assert "may" not in reason["message"].split(":")[0]
        await daemon.ask("DELETE", "/api/nodes/must")
        await daemon.wait_state("connected")
