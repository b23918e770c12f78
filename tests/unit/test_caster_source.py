"""The file that is sent: the one that was meant, as it was, read without holding anybody up."""

import hashlib
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from castrayd.driver.caster import outgoing, sending
from castrayd.driver.caster.source import Source
from tests.support.processes import until
from tests.support.sending import CHUNK, COUNT, SIZE, World, gone, made_world, once


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return made_world(tmp_path, monkeypatch)


def test_source_that_changes_reaches_nobody(world: World) -> None:
    world.add("b", "c")

    def write() -> None:
        with world.source.open("r+b") as file:
            file.write(b"changed")
        os.utime(world.source, (1, 1))

    world.nodes["b"].fault = once(COUNT - 1, write)
    end = world.send("b", "c")

    assert end["state"] == "failed"
    assert end["error"]["type"] == "source_changed"
    assert not any(os.listdir(world.nodes[name].files / "in") for name in "bc")


@pytest.mark.parametrize(("where", "error"), [("close", OSError), ("check", ValueError)])
def test_every_end_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception]
) -> None:
    """Also where the source cannot be closed, or a fault is none that was thought of."""

    def fault(_source: Source) -> None:
        raise error("the test wants it")

    world.add("b")
    monkeypatch.setattr(Source, where, fault)

    assert world.send("b")["state"] == ("done" if where == "close" else "failed")


def test_buffers_are_used_again_and_let_go_of(world: World) -> None:
    """The last one may be taken by another thread meanwhile; an ended transfer keeps none."""

    class Raced(list[mmap.mmap]):
        """Emptied between a look at it and a pop."""

        def __bool__(self) -> bool:
            return True

    source = Source(os.open(world.source, os.O_RDONLY), CHUNK)
    source._spare = Raced()
    for index in range(3):
        view = source.read(index)
        assert view == world.data[index * CHUNK : (index + 1) * CHUNK]
        source.give_back(view)
        assert len(source._spare) == 1
    source.close()
    assert len(source._spare) == 0


def test_fault_before_the_first_byte_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("b")
    monkeypatch.setattr(outgoing, "Source", lambda *_: 1 / 0)
    end = world.send("b")

    assert (end["state"], end["error"]["type"]) == ("failed", "internal")


def test_same_size_in_the_way_holds_up_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is read for it alone, beside what is sent to the others."""
    world.add("b", "c")
    (world.nodes["b"].files / "in").mkdir()
    (world.nodes["b"].files / "in" / "a").write_bytes(bytes(SIZE))
    goes_on, read, here = threading.Event(), Source.read, threading.local()
    hash_all = Source.hash_all

    def slow_hash(source: Source) -> str:
        here.is_aside = True
        return hash_all(source)

    def slow_read(source: Source, index: int) -> memoryview:
        assert not hasattr(here, "is_aside") or goes_on.wait(5)
        return read(source, index)

    monkeypatch.setattr(Source, "hash_all", slow_hash)
    monkeypatch.setattr(Source, "read", slow_read)
    monkeypatch.setattr(sending, "_GRACE_S", 0.05)
    going = world.begin("b", "c", if_exists="replace")
    until(lambda: going.progress()["recipients"][1]["state"] == "done", 3, "c")
    assert going.progress()["recipients"][0]["state"] == "running"
    goes_on.set()

    assert world.end(going)["state"] == "done"
    assert world.has("b")
    assert world.has("c")


@pytest.mark.parametrize("size", [SIZE, CHUNK])
def test_another_file_than_the_one_that_was_begun_reaches_nobody(world: World, size: int) -> None:
    """By its size or its time at once, else by its bytes once they are all read."""
    world.add("b")
    world.source.write_bytes(world.data[:size])
    facts = world.source.stat()
    same = {"size": size, "mtime_ns": facts.st_mtime_ns, "sha256": None}
    for other in ({"size": 7}, {"mtime_ns": 7}, {"sha256": "ab" * 32}):
        end = world.send("b", identity={**same, **other})
        assert (end["state"], end["error"]["type"]) == ("failed", "source_changed")
        assert not list(world.nodes["b"].files.rglob("a"))

    sha256 = hashlib.sha256(world.data[:size]).hexdigest()
    end = world.send("b", identity={**same, "sha256": sha256})
    assert (end["state"], end["sha256"]) == ("done", sha256)
    assert end["identity"] == {"size": size, "mtime_ns": facts.st_mtime_ns}


@pytest.mark.parametrize(
    ("if_exists", "state", "there"),
    [
        ("refuse", "failed", ["a"]),
        ("replace", "done", ["a"]),
        ("keep_both", "done", ["a", "a (1)"]),
    ],
)
def test_file_that_came_before_is_not_taken_for_another_one(
    world: World, if_exists: str, state: str, there: list[str]
) -> None:
    """Its recipient had published the old one, and that was never heard of; the source is new."""
    world.add("b")
    node = world.nodes["b"]

    def lose(method: str, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
        if method == "file_finish":
            node.incoming.finish(*arguments)
            node.fault = lambda *_: gone()
            return gone()
        return None

    node.fault = lose
    old = world.data
    assert world.send("b", patience_s=0.1, if_exists=if_exists)["state"] == "failed"
    node.fault = lambda *_: None
    world.data = os.urandom(SIZE + 7)
    world.source.write_bytes(world.data)

    end = world.send("b", if_exists=if_exists)
    assert end["state"] == state
    assert (end["by"]["b"]["error"] or {}).get("type") == ("exists" if state == "failed" else None)
    assert sorted(os.listdir(node.files / "in")) == there
    assert (node.files / "in" / "a").read_bytes() == (world.data if if_exists == "replace" else old)
    if state == "done":
        assert end["sha256"] == end["by"]["b"]["sha256"] == hashlib.sha256(world.data).hexdigest()
        node.restart()  # and that is what it remembers
        assert world.send("b", if_exists=if_exists)["by"]["b"]["bytes_sent"] == 0
        assert sorted(os.listdir(node.files / "in")) == there


def test_what_was_there_is_verified_without_a_byte_sent(world: World) -> None:
    """Also where the sender is another one since, that has sent it nothing."""
    world.add("b", "c")
    (world.nodes["c"].files / "in").mkdir()
    (world.nodes["c"].files / "in" / "a").write_bytes(world.data)
    assert world.send("b")["by"]["b"]["bytes_sent"] == SIZE
    end = world.send("b", "c")

    found = [
        (one["bytes_verified"], one["bytes_sent"], one["skipped"]) for one in end["recipients"]
    ]
    assert found == [(SIZE, 0, False), (SIZE, 0, True)]


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777, 0o4755])
def test_permissions_go_with_it(world: World, mode: int) -> None:
    """What only its owner may read, and what can be run; never whose rights it is run with."""
    world.add("b")
    world.source.chmod(mode)
    umask = os.umask(0o027)
    try:
        assert world.send("b")["state"] == "done"
    finally:
        os.umask(umask)

    found = (world.nodes["b"].files / "in" / "a").stat().st_mode
    assert found & 0o7777 == mode & 0o750
