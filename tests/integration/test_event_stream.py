"""The event stream, the log and the socket of a real daemon, as its followers see them."""

import contextlib
import json
import select
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused, silent

ATTEMPT = "castray.connection.attempt"
CHANGED = "castray.state.changed"
RELOADED = "castray.config.reloaded"
DESIRED = "castray.desired.changed"
MISSED = "castray.events.missed"
SHORT = "[backoff]\nmax_s = 1\n"
IN_TIME_S = 10.0
SILENT = 300
CUT_S = 25.0
HALF = b"GET /api/status HTTP/1.1\r\nHost: "


class _Stream:
    """One follower's connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content

    async def line(self) -> dict[str, Any] | None:
        """The next line; None at the end."""
        with anyio.fail_after(IN_TIME_S):
            line = await self._lines.readline()
        assert not line or line.endswith(b"\n")  # whole, always
        return json.loads(line) if line else None

    async def rest(self) -> list[dict[str, Any]]:
        """All lines up to the end."""
        lines = []
        while (line := await self.line()) is not None:
            lines.append(line)
        return lines


@asynccontextmanager
async def _stream(daemon: Daemon, query: str = "") -> AsyncIterator[_Stream]:
    connector = aiohttp.UnixConnector(str(daemon.socket))
    async with (
        aiohttp.ClientSession("http://castrayd", connector=connector) as web,
        web.get(f"/api/events?{query}") as response,
    ):
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        yield _Stream(response)


async def _lines(daemon: Daemon, query: str = "") -> list[dict[str, Any]]:
    async with _stream(daemon, query) as stream:
        return await stream.rest()


@asynccontextmanager
async def _trying(*arguments: str) -> AsyncIterator[Daemon]:
    """A daemon that has begun to try, in vain."""
    async with refused() as address, running_daemon(*arguments, address=address) as daemon:
        await daemon.wait_event(ATTEMPT, lambda _: True)
        yield daemon


async def test_first_line_is_the_snapshot() -> None:
    """A follower knows at once which stream it is, where it stands and how things are."""
    async with _trying() as daemon:
        (first,) = await _lines(daemon)
        status = await daemon.status()

    assert (first["name"], "reset" in first, bool(first["stream_id"])) == ("snapshot", False, True)
    assert first["seq"] >= 2  # a change of state and an attempt
    assert first["status"].keys() == status.keys()
    assert first["status"]["error"]["type"] == "tcp_refused"


async def test_since_gives_what_came_later_and_types_filter() -> None:
    """Nothing twice, nothing left out; an unknown number gives all there is, and says so."""
    async with _trying() as daemon:
        await daemon.post("/api/pause")
        await daemon.wait_state("disconnected")
        snapshot, *every = await _lines(daemon, "since=0")
        seqs = [line["seq"] for line in every]
        assert list(range(1, len(every) + 1)) == seqs
        assert snapshot["seq"] == seqs[-1]
        middle = seqs[len(seqs) // 2]
        later = await _lines(daemon, f"since={middle}")
        assert every[middle:] == later[1:]
        assert "reset" not in (later[0] | snapshot)
        assert len(await _lines(daemon, f"since={seqs[-1]}")) == 1

        reset, *again = await _lines(daemon, "since=123456789")
        assert (reset["reset"], again) == (True, every)

        _, *some = await _lines(daemon, f"since=0&types={ATTEMPT}")
        assert [line for line in every if line["name"] == ATTEMPT] == some
        _, *both = await _lines(daemon, f"since=0&types={ATTEMPT},{CHANGED}")
        assert [line for line in every if line["name"] in {ATTEMPT, CHANGED}] == both


async def test_follower_gets_what_comes() -> None:
    """What a request causes arrives, numbered on from the snapshot; filtered where asked."""
    async with silent() as address, running_daemon(address=address) as daemon:
        await daemon.wait_event(CHANGED, lambda event: event["to"] == "discovering")
        types = f"follow=true&types={RELOADED}"
        async with _stream(daemon, "follow=true") as stream, _stream(daemon, types) as some:
            first, _ = await stream.line() or {}, await some.line()
            await daemon.post("/api/pause")
            lines = [await stream.line() or {} for _ in range(3)]
            assert {ATTEMPT, CHANGED, DESIRED} == {line["name"] for line in lines}
            await daemon.post("/api/reload")
            lines.append(await stream.line() or {})
            assert await some.line() == lines[3]
            assert [first["seq"] + n for n in (1, 2, 3, 4)] == [line["seq"] for line in lines]


async def test_numbers_rise_over_a_restart_and_followers_hold_up_nothing() -> None:
    """SIGTERM ends a follower after a whole line and the daemon within 3 s; numbers go on."""
    async with _trying() as daemon:
        async with _stream(daemon, "since=0&follow=true") as stream:
            daemon.signal(signal.SIGTERM)
            assert await daemon.exit_code(3.0) == 0
            before = await stream.rest()
        daemon.launch()
        await daemon.answers()
        await daemon.wait_event(ATTEMPT, lambda _: True)
        last = before[-1]["seq"]
        first, *after = await _lines(daemon, f"since={last}")

    assert first["stream_id"] != before[0]["stream_id"]
    assert "reset" not in first  # an orderly end loses nothing
    assert after[0]["seq"] > last
    assert first["seq"] == after[-1]["seq"]


async def test_slow_follower_is_told_how_many_it_missed() -> None:
    """Whoever does not read costs nobody anything, and can count: seen and missed are all."""
    async with _trying() as daemon, _stream(daemon, "follow=true") as stream:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.settimeout(IN_TIME_S)
            slow.connect(str(daemon.socket))
            slow.sendall(b"GET /api/events?follow=true HTTP/1.0\r\n\r\n")
            reader = slow.makefile()
            while reader.readline().strip():
                pass
            seq = json.loads(reader.readline())["seq"]
            await _reload(daemon, 3_000)
            last = (await _lines(daemon))[0]["seq"]
            missed = 0
            while seq < last:
                line = json.loads(reader.readline())
                count = line.get("missed", 1)
                missed += line.get("missed", 0)
                assert (line["name"] == MISSED) == ("missed" in line)
                assert line["seq"] == seq + count
                seq = line["seq"]
        assert missed > 0
        assert (await stream.line() or {})["name"] == "snapshot"


async def _reload(daemon: Daemon, times: int) -> None:
    """Make so many events."""
    connector = aiohttp.UnixConnector(str(daemon.socket))
    async with aiohttp.ClientSession("http://castrayd", connector=connector) as web:

        async def some(count: int) -> None:
            for _ in range(count):
                async with web.post("/api/reload", json={}) as response:
                    assert response.status == 200

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(some, times // 10)


async def test_log_level_hides_and_shows_debug_lines() -> None:
    """A request moves the level of the running daemon, at once."""
    async with _trying("--log-level=info") as daemon:
        assert await daemon.get("/api/log-level") == {"level": "info"}
        await _attempt(daemon)
        assert "debug" not in {line["level"] for line in daemon.logs()}
        await daemon.ask("PUT", "/api/log-level", {"level": "debug"})
        await _attempt(daemon)
        await daemon.ask("PUT", "/api/log-level", {"level": "info"})
        await _attempt(daemon)
        shown = sum(line["level"] == "debug" for line in daemon.logs())
        assert shown > 0
        await _attempt(daemon)
        assert sum(line["level"] == "debug" for line in daemon.logs()) == shown


async def _attempt(daemon: Daemon) -> None:
    """One more attempt, with its lines written."""
    since = (await _lines(daemon))[0]["seq"]
    await daemon.post("/api/reconnect")
    ended = await daemon.wait_event(ATTEMPT, lambda event: event["seq"] > since)
    await daemon.wait_event(CHANGED, lambda event: event["seq"] > ended["seq"])
    await anyio.sleep(0.1)  # the log has a thread of its own


async def test_start_line_names_address_source_and_namespace() -> None:
    """The first line says what it aims at, and whence it knows."""
    argument = "--namespace=orchard"
    async with refused() as address, running_daemon(argument, address=address) as daemon:
        first = await daemon.wait_log("any", lambda _: True)

    assert f"aims at {address} (env:RAY_ADDRESS), namespace orchard" in first["message"]
    assert f"{first['server.address']}:{first['server.port']}" == address
    assert first["castray.address.source"] == "env:RAY_ADDRESS"
    assert first["castray.namespace"] == "orchard"


async def test_events_and_attempts_outlive_a_restart() -> None:
    """By SIGTERM and by SIGKILL alike: the stream goes on where it was, attempts are listed."""
    config = "[backoff]\ninitial_s = 60\ngap_s = 60\n"
    async with refused() as address, running_daemon(address=address, config=config) as daemon:
        for number in (signal.SIGTERM, signal.SIGKILL):
            await daemon.wait_event(ATTEMPT, lambda _: True)
            await anyio.sleep(1.0)  # what a kill may cost is the last moment
            before, tried = await daemon.events(), await daemon.get("/api/attempts")
            daemon.signal(number)
            await daemon.exit_code()
            daemon.launch()
            await daemon.answers()
            known = {event["seq"]: event for event in await daemon.events()}
            assert all(known[event["seq"]] == event for event in before)
            ids = [one["id"] for one in (await daemon.get("/api/attempts"))["attempts"]]
            assert ids[-len(tried["attempts"]) :] == [one["id"] for one in tried["attempts"]]
            old = tried["attempts"][-1]
            assert await daemon.get(f"/api/attempts/{old['id']}") == old
            lines = await _lines(daemon, f"since={before[-1]['seq']}")
            assert "reset" not in lines[0]


async def test_silent_connections_stop_nothing_and_are_cut() -> None:
    """Hundreds that never ask a whole question: attempts go on, soon there is room again."""
    async with refused() as address, running_daemon(address=address, config=SHORT) as daemon:
        poll, left = select.poll(), set()
        with contextlib.ExitStack() as stack:
            for number in range(SILENT):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(str(daemon.socket))
                with contextlib.suppress(OSError):  # one too many: closed at once
                    one.sendall(HALF if number % 2 else b"")
                poll.register(one, select.POLLIN)
                left.add(one.fileno())
            before = _attempts(daemon)
            with anyio.fail_after(CUT_S):
                while left:
                    for descriptor, _ in poll.poll(0):
                        poll.unregister(descriptor)
                        left.remove(descriptor)
                    await anyio.sleep(0.1)
            assert _attempts(daemon) - before >= 5
            await daemon.answers()


def _attempts(daemon: Daemon) -> int:
    return sum(line.get("event.name") == ATTEMPT for line in daemon.logs())
