"""The casting nodes of other daemons: who is known, and that nobody waits for one."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from castrayd.casting import others
from castrayd.ledger import Ledger
from castrayd.refusals import RecipientError
from tests.support.placing import OTHER, Placing


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Placing]:
    monkeypatch.setattr(others, "LOOK_S", 0.02)
    ledger = Ledger(tmp_path / "ledger")
    yield Placing(ledger)
    ledger.close()


async def _named(daemon: Placing) -> set[str]:
    return {one.name for one in await daemon.nodes.known()}


async def _until_named(daemon: Placing, *names: str) -> None:
    with anyio.fail_after(2):
        while await _named(daemon) != set(names):
            await anyio.sleep(0.01)


async def test_nobody_waits_for_anothers_silent_node(daemon: Placing) -> None:
    """What was learnt beside is read; the silent one is not meant until it speaks again."""
    daemon.link.attach("c1")
    frozen = daemon.link.put("frozen", OTHER)
    daemon.link.put("well", OTHER)
    async with daemon.running():
        assert {one.name for one in await daemon.nodes.known()} == {"frozen", "well"}
        frozen.is_silent = True
        await anyio.sleep(0.5)
        for _ in range(20):
            with anyio.fail_after(0.05):
                assert [one.name for one in await daemon.nodes.known()] == ["well"]
            await anyio.sleep(0.03)
        frozen.is_silent = False
        with anyio.fail_after(5):
            while len(await daemon.nodes.known()) < 2:
                await anyio.sleep(0.01)


async def test_new_one_of_many_is_known_at_once(daemon: Placing) -> None:
    """One that is gone is not; of the rest a few are asked at a time, and in the end each."""
    daemon.link.attach("c1")
    many = [f"n{number:03}" for number in range(100)]
    for name in many:
        daemon.link.put(name, OTHER)
    async with daemon.running():
        await _until_named(daemon, *many)
        daemon.link.put("new", OTHER)
        await _until_named(daemon, *many, "new")
        del daemon.link.actors["n007"]
        left = [name for name in many if name != "n007"]
        await _until_named(daemon, *left, "new")
        before = daemon.link.asked
        daemon.link.actors["n050"].is_silent = True
        await _until_named(daemon, *(name for name in left if name != "n050"), "new")
        assert daemon.link.asked - before <= 140


async def test_nobody_is_asked_while_nobody_needs_to_know(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs to know then hears at once of those that are new, whoever is silent meanwhile."""
    monkeypatch.setattr(others, "NEEDED_S", 0.1)
    monkeypatch.setattr(others, "FRESH_S", 0.2)
    daemon.link.attach("c1")
    daemon.link.put("old", OTHER)
    async with daemon.running():
        await anyio.sleep(0.1)
        assert daemon.link.asked == 0
        await _until_named(daemon, "old")
        await anyio.sleep(0.3)
        before = daemon.link.asked
        daemon.link.put("new", OTHER)
        daemon.link.actors["old"].is_silent = True
        await anyio.sleep(0.1)
        assert daemon.link.asked == before
        with anyio.fail_after(0.05):
            assert await _named(daemon) == {"old", "new"}
        await _until_named(daemon, "new")


async def test_what_is_no_name_is_no_node(daemon: Placing) -> None:
    """A cast to all would send a datagram to the first."""
    daemon.link.attach("c1")
    for name in ("udp:192.0.2.1:53", "group:x", "a\x1b[2J", "a\n", "", "a" * 65):
        daemon.link.put(name, OTHER)
    assert await _named(daemon) == set()


async def test_nobody_is_known_by_another_attachment(daemon: Placing) -> None:
    """Not even until the next look."""
    daemon.link.attach("c1")
    daemon.link.put("x", OTHER)
    await daemon.nodes.known()
    assert daemon.nodes.on("c1-1") == ("x",)
    daemon.link.attach("c2")
    assert daemon.nodes.on("c1-1") == ()
    assert await _named(daemon) == set()
    daemon.link.put("y", OTHER)
    daemon.link.attach("c2")
    assert await _named(daemon) == {"y"}


async def test_first_look_is_shared_by_those_who_wait(daemon: Placing) -> None:
    """Each node is asked once."""
    daemon.link.attach("c1")
    for name in "abc":
        daemon.link.put(name, OTHER)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(daemon.nodes.known)

    assert daemon.link.asked == 3


async def test_failed_look_is_shared_too(daemon: Placing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten who wait for it wait as long as one; the next one who asks has another try."""
    daemon.link.attach("c1")
    daemon.link.put("x", OTHER)
    tries = 0

    async def names() -> list[str]:
        nonlocal tries
        tries += 1
        await anyio.sleep(0.05)
        raise RecipientError("timed_out", "no answer in time")

    with monkeypatch.context() as patch:
        patch.setattr(daemon.link, "names", names)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(daemon.nodes.known)
        assert tries == 1
    assert await _named(daemon) == {"x"}


async def test_look_by_another_attachment_is_not_shared(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who came after the new one was there knows who is there."""
    daemon.link.attach("c1")
    begun, names = anyio.Event(), daemon.link.names

    async def slow() -> list[str]:
        begun.set()
        await anyio.sleep(0.1)
        return await names()

    monkeypatch.setattr(daemon.link, "names", slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.nodes.known)
        await begun.wait()
        daemon.link.attach("c2")
        daemon.link.put("y", OTHER)
        assert await _named(daemon) == {"y"}
