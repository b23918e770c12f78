"""Which actor is ours, whatever answers: what is removed, kept, moved and made again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from castrayd.casting import nodes, others, wanted
from castrayd.casting.records import Records
from castrayd.casting.wanted import WantedNode, Where
from castrayd.ledger import Ledger
from castrayd.refusals import ApiError, RecipientError
from castrayd.telemetry.facts import CasterLost
from tests.support.placing import ME, OTHER, Placing, until


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Placing]:
    monkeypatch.setattr(nodes, "LOOK_S", 0.02)
    monkeypatch.setattr(others, "LOOK_S", 0.02)
    ledger = Ledger(tmp_path / "ledger")
    yield Placing(ledger)
    ledger.close()


async def test_anothers_silent_node_is_never_removed(daemon: Placing) -> None:
    """Ours was on a cluster that is gone; on this one another daemon has the name, and hangs."""
    daemon.link.attach("c1")
    await daemon.created("x")
    theirs = daemon.link.attach("c2")
    daemon.link.put("x", OTHER).is_silent = True
    async with daemon.running():
        await anyio.sleep(0.1)
        await daemon.nodes.delete("x")
        await anyio.sleep(0.5)

    assert list(theirs) == ["x"]


async def test_one_that_was_never_placed_leaves_anothers_alone(daemon: Placing) -> None:
    """It waits until the other speaks, and is forgotten then."""
    daemon.link.attach("c1")
    theirs = daemon.link.put("x", OTHER)
    theirs.is_silent = True
    async with daemon.running():
        await daemon.nodes.create("x", Where(), None, required=False)
        await daemon.nodes.delete("x")
        await anyio.sleep(0.5)
        assert daemon.link.actors["x"] is theirs
        assert daemon.row("x")
        theirs.is_silent = False
        await until(lambda: daemon.row("x") is None)

    assert daemon.link.actors["x"] is theirs


async def test_ours_that_the_ledger_does_not_know_is_asked(daemon: Placing) -> None:
    """It may be of a time before ids were kept, or made when the session ended."""
    daemon.link.attach("c1")
    daemon.link.put("x", ME)
    daemon.link.put("y", OTHER)
    for name in "xyz":
        await daemon.nodes._wanted.put(WantedNode(name, wanted=False, unwanted_at=9e9))
    async with daemon.running():
        await until(lambda: not any(map(daemon.row, "xyz")))

    assert list(daemon.link.actors) == ["y"]


async def test_ours_is_removed_though_it_is_silent(daemon: Placing) -> None:
    """Its id tells that it is ours."""
    daemon.link.attach("c1")
    (await daemon.created("x")).is_silent = True
    await daemon.nodes.delete("x")

    assert not daemon.link.actors
    assert daemon.row("x") is None


async def test_ours_is_known_before_it_answers(daemon: Placing) -> None:
    """It hangs as it starts: it can be removed, by the id that it was made under."""
    daemon.link.attach("c1")
    daemon.link.born_silent = {"x"}
    made = await daemon.nodes.create("x", Where(), None, required=False)
    assert (made.state, made.reason) == ("pending", "no answer in time")
    assert (daemon.row("x") or WantedNode("")).actor_id == daemon.link.actors["x"].actor_id
    await daemon.nodes.delete("x")
    assert not daemon.link.actors


@pytest.mark.parametrize("was_ready", [True, False])
async def test_anothers_is_not_taken_for_ours(daemon: Placing, was_ready: bool) -> None:
    """Though the name is wanted, and ours had it: it is theirs now, and stays."""
    daemon.link.attach("c1")
    async with daemon.running():
        if was_ready:
            await daemon.created("x")
            await anyio.sleep(0.05)
        theirs = daemon.link.put("x", OTHER)
        if not was_ready:
            await daemon.nodes._wanted.put(WantedNode("x"))
        await until(lambda: "taken by" in str(daemon.nodes._seen.of("x").reason))
        shown = await daemon.nodes.show("x")
        assert (shown.owner, shown.state) == (ME, "lost" if was_ready else "pending")
        await anyio.sleep(0.1)
        await daemon.nodes.delete("x")

    assert daemon.link.actors == {"x": theirs}


async def test_ours_that_was_never_placed_is_adopted_where_it_is(daemon: Placing) -> None:
    """The ledger is of a time before it was."""
    daemon.link.attach("c1")
    ours = daemon.link.put("x", ME, node_id="c1-2")
    await daemon.nodes._wanted.put(WantedNode("x"))
    async with daemon.running():
        await until(lambda: (daemon.row("x") or WantedNode("")).node_id == "c1-2")
        # made of nothing that is known, it is made again in the same place
        await until(lambda: daemon.link.actors.get("x") not in {ours, None})

    assert daemon.link.actors["x"].spec["node_id"] == "c1-2"


async def test_ours_in_the_wrong_place_is_moved(daemon: Placing) -> None:
    """It answers, though its Ray node is gone from the map, and its host has another one."""
    daemon.link.attach("c1")
    old = await daemon.created("x")
    node = daemon.link.attached.nodes.pop("c1-1")
    daemon.link.attached.nodes["new"] = replace(node, node_id="new")
    async with daemon.running():
        await until(lambda: daemon.link.actors.get("x") not in {old, None})
        await until(lambda: daemon.nodes.counts == (1, 1))

    assert daemon.link.actors["x"].spec["node_id"] == "new"
    assert (daemon.row("x") or WantedNode("")).node_id == "new"


@pytest.mark.parametrize(
    ("kind", "misses", "is_lost"),
    [("timed_out", 1, False), ("timed_out", 2, True), ("unreachable", 1, True)],
)
async def test_one_answer_that_is_late_is_no_loss(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch, kind: str, misses: int, is_lost: bool
) -> None:
    """Two in a row are, and one that there cannot be; it is ready again when it answers."""
    daemon.link.attach("c1")
    describe, left = daemon.link.describe, [RecipientError(kind, "none")] * misses

    async def failing(*asked: Any) -> dict[str, Any]:
        if left:
            raise left.pop()
        return await describe(*asked)

    async with daemon.running():
        await daemon.created("x")
        await anyio.sleep(0.05)
        daemon.told.clear()
        monkeypatch.setattr(daemon.link, "describe", failing)
        await until(lambda: not left)
        await anyio.sleep(0.1)

    assert (await daemon.nodes.show("x")).state == "ready"
    assert any(isinstance(fact, CasterLost) for fact in daemon.told) is is_lost


async def test_ours_of_a_lost_host_is_moved_though_it_is_silent(daemon: Placing) -> None:
    """Its raylet was started anew: the actor is bound to one that does not come back."""
    daemon.link.attach("c1")
    old = await daemon.created("x")
    old.is_silent = True
    node = daemon.link.attached.nodes.pop("c1-1")
    daemon.link.attached.nodes["new"] = replace(node, node_id="new")
    async with daemon.running():
        await anyio.sleep(1)
        assert daemon.link.actors["x"] is old  # it is asked for longer than any other
        await until(lambda: daemon.link.actors.get("x") not in {old, None})

    assert daemon.link.actors["x"].spec["node_id"] == "new"


async def test_deleted_on_another_cluster_it_goes_when_its_own_is_back(daemon: Placing) -> None:
    """Meanwhile it is neither shown nor meant, over a restart too."""
    first = daemon.link.attach("c1")
    await daemon.created("x")
    daemon.link.attach("c2")
    await daemon.nodes.delete("x")
    daemon.nodes = daemon.again()
    assert (list(first), await daemon.nodes.all()) == (["x"], [])
    daemon.link.attach("c1")
    assert await daemon.nodes.known() == []
    async with daemon.running():
        await until(lambda: not first)

    assert daemon.row("x") is None


async def test_cluster_that_does_not_come_back_is_waited_for_a_month(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the row is dropped."""
    daemon.link.attach("c1")
    await daemon.created("x")
    daemon.link.attach("c2")
    await daemon.nodes.delete("x")
    async with daemon.running():
        await anyio.sleep(0.1)
        assert daemon.row("x")
        monkeypatch.setattr(wanted, "FORGOTTEN_S", -1.0)
        await until(lambda: daemon.row("x") is None)


@pytest.mark.parametrize("needed", ["in_use", "sending"])
async def test_changed_settings_reach_a_node_that_is_idle(daemon: Placing, needed: str) -> None:
    """One that a transfer needs, or that sends for others, keeps its old ones until then."""
    daemon.link.attach("c1")
    old = await daemon.created("x")
    daemon.in_use = {"x"} if needed == "in_use" else set()
    old.sending = int(needed == "sending")
    daemon.policy = replace(daemon.policy, inbox_messages=20)
    async with daemon.running():
        await anyio.sleep(0.1)
        assert daemon.link.actors["x"] is old
        daemon.in_use, old.sending = set(), 0
        await until(lambda: daemon.link.actors["x"] is not old)
        new = daemon.link.actors["x"]
        await anyio.sleep(0.1)

    assert new.spec["inbox_capacity"] == 20
    assert daemon.link.actors["x"] is new
    assert (await daemon.nodes.show("x")).state == "ready"


@pytest.mark.parametrize(
    "change",
    [
        {"data_dir": "/elsewhere"},
        {"dedupe_messages": 20},
        {"roots": {"shared": {"path": "/shared"}}},
        {"disk_reserve_bytes": 20},
    ],
)
async def test_each_setting_of_nodes_reaches_them(
    daemon: Placing, change: dict[str, object]
) -> None:
    """They are made of it."""
    daemon.link.attach("c1")
    old = await daemon.created("x")
    daemon.policy = replace(daemon.policy, **change)  # type: ignore[arg-type]
    async with daemon.running():
        await until(lambda: daemon.link.actors["x"] is not old)


async def test_changed_settings_leave_one_that_has_no_place(daemon: Placing) -> None:
    """Removed, it could not be made again: it stays as it is, and is well."""
    daemon.link.attach("c1")
    old = await daemon.created("x")
    async with daemon.running():
        await anyio.sleep(0.1)
        daemon.link.astray = True
        daemon.policy = replace(daemon.policy, follow=False, inbox_messages=20)
        for _ in range(10):
            await anyio.sleep(0.02)
            assert (await daemon.nodes.show("x")).state == "ready"
        assert daemon.link.actors["x"] is old
        daemon.link.astray = False
        await until(lambda: daemon.link.actors.get("x") not in {old, None})


async def test_one_of_other_code_is_made_again_after_an_upgrade(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adopted as it is, then replaced; another daemon's stays."""
    daemon.link.attach("c1")
    old = await daemon.created("x")
    theirs = daemon.link.put("y", OTHER)
    monkeypatch.setattr("castrayd.casting.specs._code", lambda: "other code")
    daemon.nodes = daemon.again()
    async with daemon.running():
        await until(lambda: daemon.link.actors["x"] is not old)

    assert daemon.link.actors["y"] is theirs


async def test_purge_takes_the_hidden_one_too(daemon: Placing) -> None:
    """Nobody else's is touched, and what cannot be removed now is named."""
    daemon.link.attach("c2")
    await daemon.created("far")
    actors = daemon.link.attach("c1")
    await daemon.created("near")
    await daemon.nodes.hidden(f"{daemon.link.hidden}c1-1", "c1-1", {})
    daemon.link.put("_theirs", OTHER)
    daemon.link.put("theirs", OTHER)
    done = await daemon.nodes.purge()

    assert (set(done.removed), done.left) == ({f"{daemon.link.hidden}c1-1", "near"}, ["far"])
    assert set(actors) == {"_theirs", "theirs"}


async def test_purged_twice_at_once(daemon: Placing) -> None:
    """One of them finds some gone, which is what it wants."""
    daemon.link.attach("c1")
    for name in "abc":
        await daemon.created(name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.nodes.purge)
        tasks.start_soon(daemon.nodes.purge)

    assert (daemon.link.actors, await daemon.nodes.all()) == ({}, [])


async def test_purge_waits_for_uploads_that_are_sent(daemon: Placing) -> None:
    """Their node would be made again: nothing is removed, or all is."""
    daemon.link.attach("c1")
    await daemon.created("x")
    await daemon.nodes.hidden(f"{daemon.link.hidden}c1-1", "c1-1", {})
    daemon.in_use = {daemon.link.hidden, "x"}
    with pytest.raises(ApiError, match="conflict"):
        await daemon.nodes.purge()
    assert len(daemon.link.actors) == 2
    daemon.in_use = {"x"}
    await daemon.nodes.purge()
    assert not daemon.link.actors


async def test_upload_that_is_sent_meanwhile_ends_a_purge(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node is not told to be gone."""
    hidden = f"{daemon.link.hidden}c1-1"
    daemon.link.attach("c1")
    await daemon.created("x")
    await daemon.nodes.hidden(hidden, "c1-1", {})
    delete = daemon.nodes.delete

    async def accepted(name: str) -> None:
        daemon.in_use = {daemon.link.hidden}
        await delete(name)

    monkeypatch.setattr(daemon.nodes, "delete", accepted)
    with pytest.raises(ApiError, match="conflict"):
        await daemon.nodes.purge()
    assert hidden in daemon.link.actors


async def test_hidden_one_of_other_settings_is_made_again(daemon: Placing) -> None:
    """Unless it sends."""
    name = f"{daemon.link.hidden}c1-1"
    daemon.link.attach("c1")
    await daemon.nodes.hidden(name, "c1-1", {})
    old = daemon.link.actors[name]
    daemon.policy = replace(daemon.policy, data_dir="/elsewhere")
    old.sending = 1
    await daemon.nodes.hidden(name, "c1-1", {})
    assert daemon.link.actors[name] is old
    old.sending = 0
    await daemon.nodes.hidden(name, "c1-1", {})
    assert daemon.link.actors[name].spec["data_dir"] == "/elsewhere"


async def test_hidden_one_of_another_is_not_used(daemon: Placing) -> None:
    """It would send what it likes; and it is not ours to remove."""
    name = f"{daemon.link.hidden}c1-1"
    daemon.link.attach("c1")
    theirs = daemon.link.put(name, OTHER)
    with pytest.raises(ApiError, match=r"conflict: .* taken by"):
        await daemon.nodes.hidden(name, "c1-1", {})

    assert daemon.link.actors == {name: theirs}


@pytest.mark.parametrize("is_known", [True, False])
async def test_hidden_one_has_its_ray_node(daemon: Placing, is_known: bool) -> None:
    """A cluster that has started anew may not know of it yet, or take it for dead."""
    daemon.link.attach("c1")
    nodes = daemon.link.attached.nodes
    host = nodes.pop("c1-1")
    if is_known:
        nodes["c1-1"] = replace(host, alive=False)
    with pytest.raises(ApiError, match="conflict"):
        await daemon.nodes.hidden(f"{daemon.link.hidden}c1-1", "c1-1", {})
    assert not daemon.link.actors
    nodes["c1-1"] = host
    await daemon.nodes.hidden(f"{daemon.link.hidden}c1-1", "c1-1", {})


@pytest.mark.parametrize("theirs", [True, False])
async def test_silent_node_holds_up_no_other(daemon: Placing, theirs: bool) -> None:
    """Whosever it is, and though it is new: others are made, removed and looked after meanwhile."""
    daemon.link.attach("c1")
    await daemon.created("y")
    daemon.link.born_silent = {"x"}
    if theirs:
        daemon.link.put("x", OTHER)
    async with daemon.running():
        await daemon.nodes._wanted.put(WantedNode("x"))
        for number in range(10):
            await anyio.sleep(0.05)  # a look at x is under way by now
            with anyio.fail_after(0.2):
                await daemon.created(f"n{number}")
                await daemon.nodes.delete(f"n{number}")
        with anyio.fail_after(0.2):
            await daemon.nodes.delete("y")

    assert list(daemon.link.actors) == ["x"]


async def test_new_one_has_time_to_begin(daemon: Placing) -> None:
    """Who asks for it has it when it answers for the first time."""
    daemon.link.attach("c1")
    daemon.link.born_silent = {"x"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.created, "x")
        await anyio.sleep(0.6)
        daemon.link.actors["x"].is_silent = False


async def test_one_that_was_there_is_not_waited_for_as_a_new_one(daemon: Placing) -> None:
    """It answers soon, or is asked again at the next look: who wants it no more is heard."""
    daemon.link.attach("c1")
    theirs = daemon.link.put("x", OTHER)
    async with daemon.running():
        await daemon.nodes._wanted.put(WantedNode("x"))
        theirs.is_silent = True
        await anyio.sleep(0.1)
        with anyio.fail_after(1):  # an answer of a new one is waited for for two
            await daemon.nodes.delete("x")

    assert daemon.link.actors["x"] is theirs


async def test_what_is_done_about_one_node_is_done_in_turn(daemon: Placing) -> None:
    """Made twice at once it is made once; what is removed meanwhile does not come back."""
    daemon.link.attach("c1")
    outcomes: list[object] = []

    async def create() -> None:
        try:
            outcomes.append((await daemon.nodes.create("x", Where(), None, required=False)).state)
        except ApiError as error:
            outcomes.append(error.type)

    async with daemon.running():
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(create)
        assert (daemon.link.made, sorted(map(str, outcomes))) == (1, ["conflict"] * 4 + ["ready"])
        await daemon.nodes.delete("x")
        daemon.link.slow_s = 0.03
        for number in range(15):
            await daemon.nodes._wanted.put(WantedNode("x"))
            await anyio.sleep(0.005 * number)  # at any moment of a look
            await daemon.nodes.delete("x")
            assert not daemon.link.actors
            await anyio.sleep(0.08)
            assert not daemon.link.actors


async def test_bug_in_one_look_is_no_other_nodes_business(
    daemon: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made as ever."""
    daemon.link.attach("c1")
    for name in ("odd", "x"):
        await daemon.nodes._wanted.put(WantedNode(name))
    make = daemon.link.make

    async def odd(spec: dict[str, Any]) -> dict[str, Any]:
        if spec["name"] == "odd":
            raise KeyError("odd")
        await anyio.sleep(0.05)
        return await make(spec)

    monkeypatch.setattr(daemon.link, "make", odd)
    async with daemon.running():
        await until(lambda: list(daemon.link.actors) == ["x"])


def test_rows_of_before_are_read(tmp_path: Path) -> None:
    """A ledger that knows no actors' ids is one all the same."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.put_record("WantedNode", "x", msgspec.json.encode({"name": "x", "wanted": False}))

    assert Records(ledger).all(WantedNode) == [WantedNode("x", wanted=False)]
    ledger.close()
