"""Receiving files while calls come late, disks fail, processes crash and others interfere."""

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from castrayd.driver.caster import finished, receipt
from castrayd.driver.caster.partial import Partial
from tests.support.processes import until
from tests.support.receiving import CHUNK, DATA, Node, receiving, sha256, type_of


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path) as one:
        yield one


def test_chunk_that_comes_late_of_another_file_is_seen(node: Node) -> None:
    """A call that was under way when the source was replaced: nothing mixed is ever published."""
    new = os.urandom(len(DATA))
    node.begin()
    node.take(0, 1, 2, data=new)
    node.take(0)  # of the old file, after the new one's
    assert type_of(node.finish(data=new)) == "checksum_mismatch"
    assert not (node.files / "a.bin").exists()
    assert node.begin()["have"][0] == [0, sha256(DATA[:CHUNK])]  # and so it is sent again
    node.take(0, data=new)
    assert node.finish(data=new)["sha256"] == sha256(new)
    assert (node.files / "a.bin").read_bytes() == new


def test_call_of_before_it_was_begun_again_is_refused(node: Node) -> None:
    """Also one that another process had begun."""
    node.begin()
    node.take(0, 1, 2)
    late = node.generation
    for restart in (False, True):
        if restart:
            node.restart()
        node.begin()
        node.generation, new = late, node.generation
        assert type_of(node.take(0, data=os.urandom(len(DATA)))) == "unknown_transfer"
        node.generation = new
        assert node.take(0) == {"ok": CHUNK}
    assert node.finish()["sha256"] == sha256(DATA)
    assert (node.files / "a.bin").read_bytes() == DATA


def test_abandoned_while_it_is_synced_is_not_published(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk: who has abandoned it may not wait so long, and says that it is cancelled."""
    node.begin()
    node.take(0, 1, 2)
    syncs, goes_on, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        syncs.set()
        assert goes_on.wait(5)
        fsync(descriptor)

    answers: list[dict[str, Any]] = []
    finishes = threading.Thread(target=lambda: answers.append(node.finish()))
    abandons = threading.Thread(target=lambda: answers.append(node.incoming.abandon("t1")))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", slow)
        finishes.start()
        assert syncs.wait(5)
        abandons.start()
        until(lambda: node.incoming._receipts["t1"]._is_over, 5, "the abandoning")
        goes_on.set()
        finishes.join()
        abandons.join()

    assert sorted(map(str, (answers[0].get("error", {}).get("type"), answers[1]))) == [
        "cancelled", "{}",
    ]  # fmt: skip
    assert list(node.files.iterdir()) == []
    assert node.begin() == {"have": []}


def test_crash_after_the_end_was_noted_leaves_no_part(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.begin()
    node.take(0, 1, 2)

    def crash(_self: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Partial, "discard", crash)
        with pytest.raises(SystemExit):
            node.finish()
    node.restart()
    assert node.temporary
    assert node.begin()["done"]["path"] == "files:a.bin"
    assert list(node.files.iterdir()) == [node.files / "a.bin"]


@pytest.mark.parametrize("when", ["while it comes", "at the end"])
def test_what_could_not_be_synced_is_sent_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The kernel tells a failed write once: a second fsync of the same open file would succeed."""

    def fail(*_: int) -> None:
        raise OSError(errno.EIO, "the test wants it")

    node.begin()
    if when == "at the end":
        node.take(0, 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        patched.setattr(receipt, "write_back", fail)
        answer = node.finish() if when == "at the end" else node.take(0)
    assert type_of(answer) == "internal"
    assert type_of(node.take(0)) == "unknown_transfer"
    assert node.temporary == []
    assert node.receive()["sha256"] == sha256(DATA)


@pytest.mark.parametrize("if_exists", ["refuse", "replace"])
def test_name_that_could_not_be_synced_is_told_of(
    node: Node, monkeypatch: pytest.MonkeyPatch, if_exists: str
) -> None:
    """The file is there by then: that is said, and it is neither removed nor sent again."""
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "the test wants it")
        fsync(descriptor)

    node.begin(if_exists=if_exists)
    node.take(0, 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        answer = node.finish()
    assert type_of(answer) == "internal"
    assert "files:a.bin: it is there, whole" in answer["error"]["message"]
    assert type_of(node.finish()) == "unknown_transfer"
    assert node.begin(if_exists=if_exists) == {"there": sha256(DATA), "have": []}
    assert node.incoming.abandon("t1") == {}
    assert os.listdir(node.files) == ["a.bin"]
    assert (node.files / "a.bin").read_bytes() == DATA


def test_note_of_a_file_in_progress_is_on_the_disk_before_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power would leave a file of that size that nobody ever removes."""
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        assert node.temporary == []
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    node.begin()
    assert [name.split(".")[1] for name in synced] == ["t1", "castray-open"]


def test_end_that_could_not_be_noted_is_known(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there: it is neither a failure nor abandoned."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the test wants it")

    monkeypatch.setattr(finished.Finished, "_write", fail)
    done = node.receive()
    assert done["sha256"] == sha256(DATA)
    assert node.incoming.abandon("t1") == {"done": done}
    assert node.begin() == {"done": done}


@pytest.mark.parametrize("name", ["part", "log"])
def test_file_that_has_another_name_is_not_gone_on_with(node: Node, name: str) -> None:
    """Who may write in the root has linked a file of ours there, to have it written to."""
    node.begin()
    node.take(0)
    node.restart()
    elsewhere = node.files / "elsewhere"
    os.link(node.in_progress(name), elsewhere)
    before = elsewhere.read_bytes()

    assert node.receive()["sha256"] == sha256(DATA)
    assert elsewhere.read_bytes() == before


def test_file_of_another_user_is_not_gone_on_with(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.begin()
    node.take(0)
    node.restart()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert node.begin() == {"have": []}


def test_idle_receipt_lets_go_of_its_files(node: Node) -> None:
    """And goes on where it was, once it is begun again."""
    node.begin()
    node.take(0)
    node.incoming._receipts["t1"]._touched -= 4000

    assert node.incoming.sweep(86400) == []
    assert node.open_files() == []
    assert type_of(node.take(1)) == "unknown_transfer"
    assert [index for index, _ in node.begin()["have"]] == [0]
    node.take(1, 2)
    assert node.finish()["sha256"] == sha256(DATA)


def test_crash_before_the_end_is_noted_makes_no_second_copy(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is there until then, and the name that it has been given is known by it."""
    (node.files / "a.bin").write_bytes(b"other")
    node.begin(if_exists="keep_both")
    node.take(0, 1, 2)

    def crash(_self: object, _transfer: str, _result: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(finished.Finished, "put", crash)
        with pytest.raises(SystemExit):
            node.finish()
    node.restart()
    assert [index for index, _ in node.begin(if_exists="keep_both")["have"]] == [0, 1, 2]
    assert node.finish()["path"] == "files:a (1).bin"
    assert sorted(path.name for path in node.files.iterdir()) == ["a (1).bin", "a.bin"]


def test_crash_between_link_and_unlink_makes_no_second_file(node: Node) -> None:
    (node.files / "a.bin").write_bytes(b"other")
    node.begin(if_exists="keep_both")
    node.take(0, 1, 2)
    os.link(node.in_progress("part"), node.files / "a (1).bin")
    node.restart()

    node.begin(if_exists="keep_both")
    assert node.finish()["path"] == "files:a (1).bin"
    assert sorted(os.listdir(node.files)) == ["a (1).bin", "a.bin"]


def test_what_has_another_name_is_not_written_to(node: Node) -> None:
    """A crash came after it was published, and the source is another file since."""
    new = os.urandom(len(DATA))
    node.begin()
    node.take(0, 1, 2)
    os.link(node.in_progress("part"), node.files / "a.bin")
    node.restart()
    assert node.begin(differs="another", if_exists="replace")["have"]

    assert type_of(node.take(0, data=new)) == "unknown_transfer"
    assert (node.files / "a.bin").read_bytes() == DATA
    assert node.begin(differs="another", if_exists="replace") == {"have": []}
    node.take(0, 1, 2, data=new)
    assert node.finish(data=new)["sha256"] == sha256(new)


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("if_exists", ["refuse", "replace"])
def test_other_file_in_place_of_what_was_received_is_not_published(
    node: Node, if_exists: str, swapped: bool
) -> None:
    """Who may write in the root has put it there, or has removed ours."""
    node.begin(if_exists=if_exists)
    node.take(0, 1, 2)
    node.in_progress("part").unlink()
    if swapped:
        node.in_progress("part").write_bytes(bytes(len(DATA)))

    assert type_of(node.finish()) == "internal"
    assert os.listdir(node.files) == []
    assert node.receive(if_exists=if_exists)["sha256"] == sha256(DATA)


def test_many_threads_take_and_begin(node: Node) -> None:
    """The same chunks at once, while others begin it again: at worst a chunk comes too late."""
    node.begin()
    failures: list[Any] = []

    def work() -> None:
        for index in (0, 1, 2):
            answers = (node.take(index), node.begin())
            failures.extend(a for a in answers if "error" in a and type_of(a) != "unknown_transfer")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    node.begin()
    node.take(0, 1, 2)
    assert node.finish()["bytes"] == len(DATA)
    assert (node.files / "a.bin").read_bytes() == DATA


class Kernel:
    """Stands where the C library is, and answers `sync_file_range` with an errno, or 0."""

    def __init__(self, code: int) -> None:
        self.calls: list[tuple[int, int, int]] = []

        def sync_file_range(descriptor: int, offset: int, length: int, flags: int) -> int:
            assert os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part")
            self.calls.append((offset, length, flags))
            ctypes.set_errno(code)
            return -1 if code else 0

        self.sync_file_range = sync_file_range


@pytest.mark.parametrize("code", [0, errno.ENOSYS])
def test_chunk_is_written_back_whatever_the_kernel_knows(
    node: Node, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Nothing is waited for where it can start to write by itself; elsewhere it is synced."""
    kernel = Kernel(code)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    node.begin()
    node.take(0)
    assert synced == []  # the one that this runs on knows it
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: kernel)
    node.take(1, 2)
    assert kernel.calls == [(CHUNK, CHUNK, 2), (2 * CHUNK, len(DATA) - 2 * CHUNK, 2)]
    assert len(synced) == (2 if code else 0)
    node.restart()
    node.begin()
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    node.give(0, sha256(bytes(CHUNK)), bytes(CHUNK))
    assert len(synced) == (3 if code else 1)


def test_chunk_that_could_not_be_written_back_is_lost(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.begin()
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Kernel(errno.ENOSPC))
    assert type_of(node.take(0)) == "disk_full"
    assert node.temporary == []


def test_chunk_that_comes_twice_at_once_is_written_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both calls have seen that it is not held."""
    both, write = threading.Barrier(2), receipt.Receipt._write

    def late(*arguments: Any) -> None:
        both.wait(5)
        write(*arguments)

    monkeypatch.setattr(receipt.Receipt, "_write", late)
    node.begin()
    before = node.in_progress("log").stat().st_size
    threads = [threading.Thread(target=node.take, args=(0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert node.in_progress("log").stat().st_size - before == 36


def test_begun_while_it_is_let_go_of_it_is_another_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found, and abandoned before it was begun: nobody would find what it is given."""
    begin, times = receipt.Receipt.begin, []

    def late(self: receipt.Receipt, spec: dict[str, Any]) -> dict[str, Any] | None:
        times.append(1)
        if len(times) == 1:
            node.incoming.abandon("t1")
        return begin(self, spec)

    monkeypatch.setattr(receipt.Receipt, "begin", late)
    assert node.receive()["sha256"] == sha256(DATA)
    assert len(times) == 2
