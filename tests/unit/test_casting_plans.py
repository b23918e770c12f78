"""How a transfer is cut, what a sender's words make of it, and whom it is for."""

import msgspec
import pytest

from castrayd.casting.outcomes import anew, merged
from castrayd.casting.paths import basename, checked
from castrayd.casting.plans import MIB, Part, Transfer, plan, sizes
from castrayd.casting.speed import Speed
from castrayd.casting.targets import Known, Labels, resolve
from castrayd.casting.turns import Turns
from castrayd.refusals import ApiError

ONE = Transfer("t", "2026-01-01T00:00:00Z", "a", "files:x", "files:x", (Part("b"), Part("c")))


def _said(recipient: str, state: str = "running", **more: object) -> dict[str, object]:
    nothing = {"bytes_verified": 0, "bytes_sent": 0, "sha256": None, "path": None, "error": None}
    return {"recipient": recipient, "state": state, **nothing, **more}


def _progress(state: str, *recipients: dict[str, object]) -> dict[str, object]:
    told = {"bytes_total": 10, "sha256": None, "error": None}
    return {"state": state, "recipients": list(recipients), **told}


@pytest.mark.parametrize("store", [10 * MIB, 80 * MIB, 150 * MIB, 1024 * MIB, 200_000 * MIB])
@pytest.mark.parametrize("rate", [None, 1, 2 * MIB, 1024 * MIB])
def test_what_is_in_flight_fits_the_smallest_store(store: int, rate: int | None) -> None:
    """Never more than a share of the store, but for the two smallest chunks that go at all."""
    chunk, window = sizes([200_000 * MIB, store], rate)

    assert chunk & (chunk - 1) == 0
    assert 256 * 1024 <= chunk <= 16 * MIB
    assert 2 <= window <= 8
    assert chunk * window <= max(0.15 * store, 2 * 256 * 1024)
    assert rate is None or chunk == 256 * 1024 or chunk <= rate / 4


def test_large_stores_have_large_chunks() -> None:
    """Where there is room a chunk is as large as was measured to be the quickest."""
    assert sizes([4096 * MIB], None) == (16 * MIB, 8)


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (("done", "done"), "done"),
        (("done", "failed"), "partial"),
        (("failed", "failed"), "failed"),
        (("cancelled", "cancelled"), "cancelled"),
    ],
)
def test_state_follows_from_the_recipients(ends: tuple[str, str], state: str) -> None:
    """All have it, some, none; while the sender runs it is running, whatever they say."""
    told = [_said("b", ends[0]), _said("c", ends[1])]

    assert merged(ONE, _progress("done", *told)).state == state
    assert merged(ONE, _progress("running", *told)).state == "running"


def test_what_two_senders_have_sent_adds_up() -> None:
    """The second counts from nothing again, and the first one's bytes were sent all the same."""
    first = merged(ONE, _progress("running", _said("b", bytes_sent=7, bytes_verified=5)))
    second = merged(anew(first), _progress("running", _said("b", bytes_sent=3, bytes_verified=8)))

    assert (second.parts[0].bytes_sent, second.parts[0].bytes_verified) == (10, 8)
    assert second.parts[1] == ONE.parts[1]


def test_plan_names_who_does_not_have_it() -> None:
    """A sender that takes over is told of the rest alone."""
    half = merged(ONE, _progress("running", _said("b", "done")))

    assert plan(half, 4, "files:x", 60.0)["recipients"] == ["c"]


def test_turns_are_bounded_by_sender_and_recipient() -> None:
    """Two from a node, two to one, in the order in which they were accepted; running ones first."""
    many = [
        msgspec.structs.replace(ONE, id=str(n), created_at=f"{n:02}", node=node, parts=(Part(to),))
        for n, (node, to) in enumerate(
            [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("c", "x"), ("d", "z")]
        )
    ]

    assert _turns(many).take() == ["0", "1", "3", "5"]
    many[4] = msgspec.structs.replace(many[4], state="running")
    turns = _turns(many)
    assert turns.take() == ["4", "0", "1", "5"]
    assert (turns.take(), turns.waiting) == ([], 2)
    turns.leave("2")
    turns.leave("4")
    assert (turns.take(), turns.waiting) == (["3"], 0)


def test_one_to_many_is_not_passed_for_ever() -> None:
    """At each of its nodes another one waits whenever one ends; it has its turn all the same."""
    turns = Turns()

    def add(id_: str, *names: str) -> None:
        parts = tuple(Part(name) for name in names)
        turns.add(Transfer(id_, f"{turns.waiting:03}", id_, "f:x", "f:x", parts))

    for id_ in ("b1", "b2", "c1", "c2", "d1", "d2"):
        add(id_, id_[0])
    turns.take()
    add("many", "b", "c", "d")
    went = []
    for id_ in ("b1", "b2", "c1", "d1"):
        add(f"small {id_}", id_[0])
        turns.leave(id_)
        went.append(turns.take())

    # one place at each is kept for it, and the others' is not
    assert went == [[], ["small b1"], [], ["many"]]


def _turns(waiting: list[Transfer]) -> Turns:
    turns = Turns()
    for one in reversed(waiting):
        turns.add(one)
    return turns


@pytest.mark.parametrize(
    "path", ["files:../x", "files:/x", "files:a//b", "files:a\0b", "files:" + "x" * 256, "files:"]
)
def test_path_that_leads_out_is_refused(path: str) -> None:
    """Before anything is asked of a node."""
    with pytest.raises(ApiError, match="path_forbidden"):
        checked(path, "path")


def test_path_without_a_root_is_no_path() -> None:
    """What is no ROOT:PATH is a bad request."""
    with pytest.raises(ApiError, match="bad_request"):
        checked("x", "path")
    assert checked("files:a/b.txt", "path") == "files:a/b.txt"
    assert [basename(p) for p in ("files:a/b.txt", "files:b", "b")] == ["b.txt", "b", "b"]


KNOWN = [Known("a", {"gpu": "1"}), Known("b", {"gpu": "1", "rack": "2"}), Known("c", {})]


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("all", ("b", "c")),
        ("group:g", ("c", "z")),
        (["c", "a", "c"], ("c", "a")),
        (Labels({"gpu": "1"}), ("b",)),
        (Labels({"rack": "9"}), ()),
    ],
)
def test_targets_are_resolved(to: object, names: tuple[str, ...]) -> None:
    """All and labels mean what is known, but the sender; names are taken as they are."""
    groups = {"g": ("a", "c", "z")}

    assert resolve(to, sender="a", known=KNOWN, members=groups.get) == names  # type: ignore[arg-type]


def test_unknown_target_is_refused() -> None:
    """A group that is not there, or a word that means nobody."""
    with pytest.raises(ApiError, match="not_found"):
        resolve("group:x", sender=None, known=KNOWN, members=lambda _name: None)
    with pytest.raises(ApiError, match="bad_request"):
        resolve("everybody", sender=None, known=KNOWN, members=lambda _name: None)


def test_speed_is_that_of_late() -> None:
    """What was long ago does not count, and of one look nothing is known."""
    speed = Speed()
    speed.add(0.0, 0)
    assert speed.rate() is None
    for second in range(1, 21):
        speed.add(float(second), 100 * second if second <= 10 else 1000 + 10 * (second - 10))
    assert speed.rate() == pytest.approx(10.0, rel=0.2)
