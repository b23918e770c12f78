"""Receiving files: verified, resumed, published whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from castrayd.driver.caster import finished
from castrayd.driver.caster.incoming import default_reserve
from tests.support.receiving import CHUNK, DATA, Node, receiving, sha256, type_of


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path) as one:
        yield one


def test_file_arrives_whole(node: Node) -> None:
    """In any order; under its name only at the end, readable, with nothing left beside it."""
    assert node.begin(path="files:new/folder/a.bin") == {"have": []}
    assert node.take(2, 0) == {"ok": CHUNK}
    assert not (node.files / "new/folder/a.bin").exists()
    assert node.take(1) == {"ok": CHUNK}
    done = node.finish()
    there = node.files / "new/folder/a.bin"

    assert done == {
        "path": "files:new/folder/a.bin", "bytes": len(DATA), "sha256": sha256(DATA),
        "skipped": False,
    }  # fmt: skip
    assert there.read_bytes() == DATA
    umask = os.umask(0o022)
    os.umask(umask)
    assert there.stat().st_mode & 0o777 == 0o644 & ~umask
    assert node.temporary == []


def test_empty_file_arrives(node: Node) -> None:
    assert node.begin(size=0) == {"have": []}
    assert node.finish(data=b"")["bytes"] == 0
    assert (node.files / "a.bin").read_bytes() == b""


def test_beginning_again_goes_on(node: Node) -> None:
    node.begin()
    node.take(1)

    assert node.begin() == {"have": [[1, sha256(DATA[CHUNK : 2 * CHUNK])]]}


def test_resumed_by_a_later_process(node: Node) -> None:
    """What is there and true counts; what is damaged on the disk, or claimed alone, does not."""
    node.begin()
    node.take(0, 1, 2)
    node.restart()
    with node.in_progress("part").open("r+b") as part:
        part.seek(CHUNK + 7)
        part.write(b"damaged")
    with node.in_progress("log").open("ab") as log:
        log.write(b"torn")

    assert [index for index, _ in node.begin()["have"]] == [0, 2]
    assert type_of(node.finish()) == "checksum_mismatch"
    node.take(1)
    node.restart()
    assert [index for index, _ in node.begin()["have"]] == [0, 1, 2]
    assert node.finish()["sha256"] == sha256(DATA)
    assert (node.files / "a.bin").read_bytes() == DATA


def test_what_is_finished_is_not_abandoned(node: Node) -> None:
    done = node.receive()
    assert node.incoming.abandon("t1") == {"done": done}
    assert (node.files / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("lost", ["part", "log"])
def test_half_of_what_was_left_is_nothing(node: Node, lost: str) -> None:
    node.begin()
    node.take(0)
    node.restart()
    node.in_progress(lost).unlink()

    assert node.receive()["bytes"] == len(DATA)
    assert (node.files / "a.bin").read_bytes() == DATA


def test_what_another_source_left_is_nothing(node: Node) -> None:
    """A source that has changed its size has nothing in common with what was sent before."""
    node.begin()
    node.take(0)
    assert node.begin(size=len(DATA) - 1) == {"have": []}
    node.restart()
    assert node.receive()["bytes"] == len(DATA)


def test_link_in_place_of_a_file_in_progress_is_not_followed(node: Node, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    node.in_progress("part").symlink_to(victim)

    assert type_of(node.begin()) == "path_forbidden"
    assert victim.read_bytes() == b"precious"


def test_chunk_that_is_not_what_was_sent_is_refused(node: Node) -> None:
    node.begin()
    chunk = DATA[:CHUNK]

    assert type_of(node.give(0, sha256(b"else"), chunk)) == "checksum_mismatch"
    assert type_of(node.give(2, sha256(chunk), chunk)) == "internal"
    assert type_of(node.give(9, sha256(chunk), chunk)) == "internal"
    assert node.begin() == {"have": []}


def test_held_chunk_is_not_written_again(node: Node) -> None:
    """Nor is it verified, unless it will be sent on."""
    node.begin()
    node.take(0)
    log = node.in_progress("log")
    size = log.stat().st_size
    digest = sha256(DATA[:CHUNK])

    assert node.take(0) == {"ok": CHUNK}
    assert node.give(0, digest, bytes(CHUNK)) == {"ok": CHUNK}
    assert type_of(node.give(0, digest, bytes(CHUNK), True)) == "checksum_mismatch"
    assert size == log.stat().st_size


def test_views_are_dropped(node: Node) -> None:
    """A view that lives on would hold the sender's object in the store."""
    node.begin()
    chunk = bytearray(DATA[:CHUNK])
    node.give(0, sha256(chunk), chunk)
    node.give(1, sha256(b""), chunk)

    chunk.extend(b"a buffer with views cannot grow")


def test_unknown_transfer_is_said(node: Node) -> None:
    """The sender then begins it again."""
    assert type_of(node.take(0)) == "unknown_transfer"
    assert type_of(node.finish()) == "unknown_transfer"
    assert type_of(node.begin(transfer="../a")) == "path_forbidden"


def test_same_size_there_is_compared_by_the_sender(node: Node) -> None:
    (node.files / "a.bin").write_bytes(bytes(len(DATA)))

    assert node.begin() == {"there": sha256(bytes(len(DATA))), "have": []}
    assert node.temporary == []
    differs = sha256(bytes(len(DATA)))
    assert type_of(node.begin(differs=differs)) == "exists"
    assert node.begin(differs=differs, if_exists="replace") == {"have": []}


def test_other_size_there_is_refused_at_once(node: Node) -> None:
    (node.files / "a.bin").write_bytes(b"other")

    assert type_of(node.begin()) == "exists"
    assert node.temporary == []


@pytest.mark.parametrize("other", [b"other", bytes(len(DATA))])
def test_nothing_is_overwritten_that_came_meanwhile(node: Node, other: bytes) -> None:
    node.begin()
    node.take(0, 1, 2)
    (node.files / "a.bin").write_bytes(other)

    assert type_of(node.finish()) == "exists"
    assert (node.files / "a.bin").read_bytes() == other
    node.incoming.abandon("t1")
    assert node.temporary == []


@pytest.mark.parametrize("if_exists", ["refuse", "keep_both"])
def test_same_file_that_came_meanwhile_is_enough(node: Node, if_exists: str) -> None:
    """Whoever has brought it. What is no regular file is another one, and not waited for."""
    there = node.files / "a.bin"
    node.begin(if_exists=if_exists)
    node.take(0, 1, 2)
    there.write_bytes(DATA)
    inode = there.stat().st_ino

    done = node.finish()
    assert (done["path"], done["skipped"]) == ("files:a.bin", True)
    assert (os.listdir(node.files), there.stat().st_ino) == (["a.bin"], inode)
    assert node.begin() == {"done": done}

    there.unlink()
    node.begin(transfer="t2", if_exists=if_exists)
    node.take(0, 1, 2, transfer="t2")
    os.mkfifo(there)
    answer = node.finish("t2")
    assert answer.get("path") == (None if if_exists == "refuse" else "files:a (1).bin")


def test_replace_replaces_a_file_and_nothing_else(node: Node) -> None:
    (node.files / "a.bin").write_bytes(b"other")
    (node.files / "folder").mkdir()

    assert node.receive(if_exists="replace")["path"] == "files:a.bin"
    assert (node.files / "a.bin").read_bytes() == DATA
    assert type_of(node.begin(transfer="t2", path="files:folder", if_exists="replace")) == "exists"


def test_keep_both_takes_the_first_free_name(node: Node) -> None:
    for name in ("a.bin", "a (1).bin"):
        (node.files / name).write_bytes(b"other")
    long = "ü" * 125 + ".bin"
    (node.files / long).write_bytes(b"other")

    assert node.receive(if_exists="keep_both")["path"] == "files:a (2).bin"
    found = node.receive(transfer="t2", path=f"files:{long}", if_exists="keep_both")["path"]
    assert found == "files:" + "ü" * 123 + " (1).bin"
    assert (node.files / "a (2).bin").read_bytes() == DATA


def test_finished_transfer_is_known_later(node: Node) -> None:
    """By another process too, whatever has become of the file since."""
    done = node.receive()

    assert node.begin() == {"done": done}
    assert node.finish() == done
    assert type_of(node.finish(data=bytes(len(DATA)))) == "unknown_transfer"
    node.restart()
    (node.files / "a.bin").unlink()
    assert node.begin() == {"done": done}
    assert node.incoming.abandon("t1") == {"done": done}


def test_finished_transfer_is_begun_again_with_another_source(node: Node) -> None:
    """What a sender has found to differ is not what it has sent itself since."""
    old = node.receive(if_exists="replace")
    new = os.urandom(len(DATA))
    assert node.begin(if_exists="replace") == {"done": old}
    assert node.begin(if_exists="replace", differs=old["sha256"]) == {"have": []}
    node.take(0, 1, 2, data=new)
    done = node.finish(data=new)

    assert done["sha256"] == sha256(new)
    assert node.begin(if_exists="replace", differs=old["sha256"]) == {"done": done}
    assert (node.files / "a.bin").read_bytes() == new


def test_finished_transfers_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "KEPT", 3)
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    for number in range(8):
        node.begin(transfer=f"t{number}", path=f"files:{number}", size=0)
        node.finish(f"t{number}", b"")
    node.restart()
    known = [
        n for n in range(8) if "done" in node.begin(transfer=f"t{n}", path=f"files:{n}", size=0)
    ]

    assert known == [5, 6, 7]
    lines = (node._state / ".castray-done").read_text().split("\n")
    assert len([line for line in lines if line]) <= 6
    assert str(node._state) in synced  # it was written anew, and has its name for good


def test_reserve_stays_free(node: Node) -> None:
    """Nothing is made, not even a folder, when the rest of the disk would be too little."""
    disk = os.statvfs(node.files)
    node.restart(disk.f_blocks * disk.f_frsize)
    answer = node.begin(path="files:folder/a.bin")

    assert type_of(answer) == "disk_full"
    assert os.listdir(node.files) == []
    assert default_reserve(disk) >= 1024**3


def test_what_is_on_the_disk_already_needs_no_room(node: Node) -> None:
    node.begin()
    node.take(0)
    node.restart(reserve=1 << 62)

    assert [index for index, _ in node.begin()["have"]] == [0]


def test_abandoned_leaves_nothing(node: Node) -> None:
    """Also what an earlier process has left; twice is no error."""
    for restart in (False, True):
        node.begin()
        node.take(0)
        if restart:
            node.restart()
        assert node.incoming.abandon("t1") == {}
        assert node.incoming.abandon("t1") == {}
        assert node.temporary == []
        assert type_of(node.take(1)) == "unknown_transfer"


def test_sweep_removes_what_nobody_goes_on_with(node: Node) -> None:
    node.begin(transfer="old", path="files:sub/old")
    node.restart()
    node.begin(transfer="new", path="files:new")
    note = node._state / ".castray-open" / "old"
    os.utime(note, (1, 1))

    assert node.incoming.sweep(3600) == ["old"]
    assert node.temporary == [node.in_progress(ending, "new").name for ending in ("log", "part")]
