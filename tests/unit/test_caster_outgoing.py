"""Sending files to recipients that misbehave in every way; no Ray, but real files and receipts."""

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from castrayd.driver.caster import pace, remote, sending
from castrayd.driver.caster.pace import Window
from castrayd.driver.caster.recipient import Recipient
from castrayd.driver.caster.source import Source
from tests.support.processes import until
from tests.support.sending import CHUNK, COUNT, SIZE, Node, World, gone, made_world, once, refusal


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return made_world(tmp_path, monkeypatch)


def test_file_arrives_at_all_once(world: World) -> None:
    world.add("b", "c", "d")
    end = world.send("b", "c", "d")

    assert end["state"] == "done"
    assert end["sha256"] == hashlib.sha256(world.data).hexdigest()
    assert all(world.has(name) for name in "bcd")
    assert [one["bytes_sent"] for one in end["recipients"]] == [SIZE] * 3
    assert all(sorted(node.taken()) == list(range(COUNT)) for node in world.nodes.values())


def test_lost_recipient_gets_what_it_has_missed(world: World) -> None:
    """Its process is another one then, and the chunk that was on its way goes again."""
    world.add("b", "c", "d")

    def lose() -> dict[str, Any]:
        world.nodes["c"].restart()
        return gone()

    world.nodes["c"].fault = once(7, lose)
    end = world.send("b", "c", "d")

    assert end["state"] == "done"
    assert all(world.has(name) for name in "bcd")
    assert all(one["bytes_verified"] == SIZE for one in end["recipients"])
    assert end["by"]["b"]["bytes_sent"] == SIZE
    assert end["by"]["c"]["bytes_sent"] <= SIZE + 4 * CHUNK
    assert all(end["by"][name]["bytes_sent"] == world.nodes[name].received for name in "bcd")


def test_recipient_that_forgot_the_transfer_is_begun_again(world: World) -> None:
    world.add("b")
    world.nodes["b"].fault = once(7, world.nodes["b"].restart)

    assert world.send("b")["state"] == "done"
    assert world.has("b")


def test_recipient_that_comes_late_is_served(world: World) -> None:
    """The others do not wait for it."""
    world.add("b")
    outgoing = world.begin("b", "late")
    until(lambda: outgoing.progress()["recipients"][0]["state"] == "done", 5, "b")
    world.add("late")

    assert world.end(outgoing)["state"] == "done"
    assert world.has("late")


def test_frozen_recipient_costs_the_others_one_pulse(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when it wakes it gets the rest."""
    monkeypatch.setattr(remote, "_PULSE_S", 0.3)
    world.add("b", "c", "d")

    def freeze() -> None:
        world.nodes["c"].is_frozen = True

    world.nodes["c"].fault = once(5, freeze)
    began = time.monotonic()
    outgoing = world.begin("b", "c", "d")

    def are_done() -> bool:
        ends = [one["state"] for one in outgoing.progress()["recipients"]]
        return ends == ["done", "running", "done"]

    until(are_done, 5, "the others")
    assert time.monotonic() - began < 2
    world.nodes["c"].is_frozen = False
    assert world.end(outgoing)["state"] == "done"
    assert all(world.has(name) for name in "bcd")


def test_busy_recipient_is_waited_for(world: World) -> None:
    """It answers other questions meanwhile, and nothing is sent twice."""
    world.add("b", "c")
    world.nodes["c"].slow_s = 0.2
    end = world.send("b", "c")

    assert end["state"] == "done"
    assert [one["bytes_sent"] for one in end["recipients"]] == [SIZE] * 2
    assert any(method == "sending" for method, _ in world.nodes["c"].calls)


def test_answer_without_sense_ends_it_alone(world: World) -> None:
    world.add("b", "c")
    world.nodes["c"].fault = lambda method, _: {"have": 7} if method == "file_begin" else None
    end = world.send("b", "c")

    assert end["by"]["c"]["error"]["type"] == "internal"
    assert world.has("b")


def test_patience_ends(world: World) -> None:
    world.add("b")
    end = world.send("b", "nobody", patience_s=0.2)

    assert end["state"] == "partial"
    assert end["by"]["nobody"]["error"]["type"] == "unreachable"
    assert world.has("b")


def test_recipient_that_is_lost_with_every_chunk_is_given_up(world: World) -> None:
    """However well it begins each time."""
    world.add("b", "c")
    world.nodes["c"].fault = lambda method, _: gone() if method == "file_take" else None
    end = world.send("b", "c")

    assert end["by"]["c"]["error"]["type"] == "unreachable"
    assert (end["by"]["c"]["bytes_verified"], end["by"]["c"]["bytes_sent"]) == (0, 0)
    assert world.has("b")


@pytest.mark.parametrize("if_exists", ["refuse", "replace", "keep_both"])
def test_two_nodes_with_one_root_have_one_file(world: World, if_exists: str) -> None:
    """Each receives it beside the other; who comes second finds the same file there."""
    world.add("b", "c")
    world.nodes["c"].files = world.nodes["b"].files
    world.nodes["c"].restart()
    end = world.send("b", "c", if_exists=if_exists)

    assert end["state"] == "done", end
    assert world.has("b")
    skipped = [one["skipped"] for one in end["recipients"]]
    assert sorted(skipped) == ([False, False] if if_exists == "replace" else [False, True])
    assert [one["bytes_sent"] for one in end["recipients"]] == [SIZE] * 2
    assert {one["path"] for one in end["recipients"]} == {"files:in/a"}


@pytest.mark.parametrize("type", ["disk_full", "path_forbidden", "exists", "internal"])
@pytest.mark.parametrize("method", ["file_begin", "file_take"])
def test_recipient_fails_alone(world: World, type: str, method: str) -> None:  # noqa: A002
    world.add("b", "c", "d")
    world.nodes["c"].fault = lambda asked, _: refusal(type) if asked == method else None
    end = world.send("b", "c", "d")

    assert end["state"] == "partial"
    assert end["by"]["c"]["error"] == refusal(type)["error"]
    assert world.has("b")
    assert world.has("d")
    assert not list(world.nodes["c"].files.rglob(".castray-*"))


@pytest.mark.parametrize("answer", [{"ok": CHUNK}, refusal("disk_full")])
async def test_answer_to_an_earlier_life_says_nothing_of_this_one(
    world: World, answer: dict[str, Any]
) -> None:
    """It was begun again while the answer was on its way, and has lost the chunk since."""

    class Late:
        """Another node, which is begun again before it answers."""

        async def ask(self, *_: Any) -> dict[str, Any]:
            one._resume([], "second")
            return {**answer, "received": CHUNK}

    source = Source(os.open(world.source, os.O_RDONLY), CHUNK)
    host: Any = SimpleNamespace(tell=lambda: None)
    one = Recipient({"id": "t1", "chunk_bytes": CHUNK}, "b", source, Late(), host)  # type: ignore[arg-type]
    one._resume([], "first")

    assert await one.deliver(0, bytes(32), [None]) == []
    assert (one.state, one.tally.lacks(0), one.tally.verified) == ("ready", True, 0)
    assert one.tally.sent == CHUNK
    source.close()


def test_damaged_chunk_is_sent_again(world: World) -> None:
    world.add("b")
    world.nodes["b"].fault = once(3, lambda: refusal("checksum_mismatch"))
    end = world.send("b")

    assert end["state"] == "done"
    assert end["by"]["b"]["bytes_sent"] == SIZE + CHUNK
    assert world.nodes["b"].taken().count(3) == 2


def test_chunk_that_is_always_damaged_ends_it(world: World) -> None:
    world.add("b")

    def fault(method: str, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
        is_it = method == "file_take" and arguments[1]["index"] == 3
        return refusal("checksum_mismatch") if is_it else None

    world.nodes["b"].fault = fault
    end = world.send("b")

    assert end["state"] == "failed"
    assert end["by"]["b"]["error"]["type"] == "checksum_mismatch"
    assert world.nodes["b"].taken().count(3) == 4


def test_chunk_lost_at_a_relay_comes_from_the_sender(world: World) -> None:
    world.add("b", "c")
    world.nodes["c"].fault = once(0, lambda: refusal("object_lost"))
    end = world.send("b", "c")

    assert end["state"] == "done"
    assert world.nodes["b"].taken().count(0) == 1
    assert world.nodes["c"].taken().count(0) == 2


def test_relay_without_room_relays_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("b", "c")
    monkeypatch.setattr(Node, "answer", Node.answer_without_refs)

    assert world.send("b", "c")["state"] == "done"
    assert world.has("c")


def test_missing_chunk_is_found_at_the_end(world: World) -> None:
    """The recipient has lost a chunk that it had said was written."""
    world.add("b")
    world.nodes["b"].fault = once(5, lambda: {"ok": CHUNK})
    end = world.send("b")

    assert end["state"] == "done"
    assert world.has("b")


def test_full_store_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("b")
    room = iter([None, None])
    monkeypatch.setattr(sending, "put", lambda view: next(room, bytes(view)))

    assert world.send("b")["state"] == "done"
    assert world.has("b")


def test_bug_is_told_and_ends_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("b")
    monkeypatch.setattr(sending, "put", lambda _view: 1 / 0)
    end = world.send("b")

    assert (end["state"], end["error"]["type"]) == ("failed", "internal")
    assert end["by"]["b"]["error"]["type"] == "internal"


def test_rate_is_kept(world: World) -> None:
    world.add("b", "c")
    began = time.monotonic()
    assert world.send("b", "c", rate=SIZE * 2)["state"] == "done"

    assert 0.4 < time.monotonic() - began < 3


def test_cancel_ends_it_at_once(world: World) -> None:
    """Also one that has nobody to send to; and what was begun is removed."""
    world.add("b")
    outgoing = world.begin("b", "nobody", rate=CHUNK * 4)
    until(lambda: (outgoing.progress()["recipients"][0]["bytes_verified"] or 0) > 0, 5, "a chunk")
    outgoing.cancel()
    end = world.end(outgoing)

    assert end["state"] == "cancelled"
    assert {one["state"] for one in end["recipients"]} == {"cancelled"}
    assert os.listdir(world.nodes["b"].files / "in") == []
    outgoing.cancel()
    nobody = world.begin("nobody")
    nobody.cancel()
    assert world.end(nobody)["state"] == "cancelled"


def test_sender_that_starts_again_sends_the_rest(world: World) -> None:
    world.add("b")
    first = world.begin("b", rate=CHUNK * 40)
    until(
        lambda: (first.progress()["recipients"][0]["bytes_verified"] or 0) > 5 * CHUNK, 5, "chunks"
    )
    world.nodes["b"].fault = lambda _method, _arguments: gone()  # to the first one
    have = list(world.nodes["b"].incoming._receipts["t1"]._partial.held)  # type: ignore[union-attr]
    first.cancel()
    world.end(first)
    world.nodes["b"].fault = lambda _method, _arguments: None
    world.nodes["b"].calls.clear()

    assert world.send("b")["state"] == "done"
    assert sorted([*have, *world.nodes["b"].taken()]) == list(range(COUNT))
    assert world.send("b")["by"]["b"]["bytes_sent"] == 0


async def test_window_follows_how_long_chunks_take() -> None:
    """It grows while they are quick, and shrinks to one before calls time out."""
    window = Window(4)
    sizes = []
    for took_s in (0.1, 0.1, 0.1, pace._SLOW_S / 2, 15, 15, 15, 0.1):
        await window.enter()
        window.leave(took_s)
        sizes.append(window.size)

    assert sizes == [3, 4, 4, 4, 2, 1, 1, 2]
