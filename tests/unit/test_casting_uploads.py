"""Uploads: whose they are, how much they may take, and how long they stay."""

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from castrayd.casting.records import Records
from castrayd.casting.uploads import Uploads
from castrayd.ledger import Ledger
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.threads import READS

ALICE, BOB = 64_321, 64_322
"""Uids that are neither root nor ours."""


class _Daemon:
    """What is around the uploads of one."""

    def __init__(self) -> None:
        self.policy: Any = SimpleNamespace(upload_bytes=100, upload_s=60.0, disk_reserve_bytes=0)
        self.needed: set[str] = set()
        self.states: dict[str, str] = {}
        self.placed: list[str] = []
        self.daemon_id, self.hidden = "d" * 32, "_d-"
        self.attached = SimpleNamespace(
            attached=SimpleNamespace(facts=SimpleNamespace(node_id="node"))
        )

    def attachment(self) -> Any:
        return self.attached

    async def place(self, name: str, _node_id: str, _roots: object) -> None:
        await anyio.sleep(0.01)
        self.placed.append(name)


def _uploads(folder: Path, ledger: Ledger, daemon: _Daemon | None = None) -> Uploads:
    of = daemon or _Daemon()
    link: Any = of
    uploads = Uploads(
        folder / "up", link, Records(ledger), of.place,
        lambda: of.policy, lambda: of.needed, of.states.get,
    )  # fmt: skip
    uploads.restore()
    return uploads


def _send(uploads: Uploads, name: str, uid: int) -> None:
    """Be about to send it, as far as that is allowed."""
    with uploads.held(name, uid):
        pass


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    one = Ledger(tmp_path / "ledger")
    yield one
    one.close()


async def _data(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _refusal(call: Any, *arguments: Any) -> ApiErrorType:
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    return caught.value.type


async def _refused(uploads: Uploads, name: str, data: AsyncIterator[bytes], uid: int) -> Any:
    with pytest.raises(ApiError) as caught:
        await uploads.put(name, data, uid)
    return caught.value.type


async def test_only_its_owner_replaces_or_sends_it(tmp_path: Path, ledger: Ledger) -> None:
    """Another user may neither, also after a restart; root and our own uid may both."""
    await _uploads(tmp_path, ledger).put("a", _data(b"alice's"), ALICE)
    uploads = _uploads(tmp_path, ledger)

    assert _refusal(_send, uploads, "a", BOB) is ApiErrorType.FORBIDDEN
    assert await _refused(uploads, "a", _data(b"x"), BOB) is ApiErrorType.FORBIDDEN
    assert (tmp_path / "up" / "a").read_bytes() == b"alice's"
    for uid in (ALICE, 0, os.geteuid()):
        _send(uploads, "a", uid)
    await uploads.put("a", _data(b"again"), ALICE)
    await uploads.put("a", _data(b"root's"), 0)
    assert _refusal(_send, uploads, "a", ALICE) is ApiErrorType.FORBIDDEN


async def test_one_of_an_unknown_owner_is_roots(tmp_path: Path, ledger: Ledger) -> None:
    """With the ledger lost it cannot be told whose it was."""
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_bytes(b"?")
    uploads = _uploads(tmp_path, ledger)

    assert _refusal(_send, uploads, "a", ALICE) is ApiErrorType.FORBIDDEN
    assert _refusal(_send, uploads, "b", ALICE) is ApiErrorType.NOT_FOUND
    _send(uploads, "a", 0)


async def test_of_two_at_once_with_one_name_the_first_has_it(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Their bytes do not mix, and who comes second is refused at the end."""
    uploads = _uploads(tmp_path, ledger)
    alice_is_done = anyio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"bob's "
        await alice_is_done.wait()
        yield b"end"

    async def bob() -> None:
        assert await _refused(uploads, "a", slowly(), BOB) is ApiErrorType.FORBIDDEN

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bob)
        await anyio.wait_all_tasks_blocked()
        await uploads.put("a", _data(b"alice's"), ALICE)
        alice_is_done.set()

    assert [p.name for p in (tmp_path / "up").iterdir()] == ["a"]
    assert (tmp_path / "up" / "a").read_bytes() == b"alice's"


async def test_those_at_once_share_the_room(tmp_path: Path, ledger: Ledger) -> None:
    """What is on its way in counts too; one too large leaves nothing behind."""
    uploads = _uploads(tmp_path, ledger)
    over = anyio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield b"x" * 60
        await over.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(uploads.put, "a", held(), ALICE)
        await anyio.sleep(0.2)  # it waits for more, and has written nothing yet
        kind = await _refused(uploads, "b", _data(b"x" * 30, b"x" * 30), BOB)
        over.set()

    assert kind is ApiErrorType.TOO_LARGE
    assert [p.name for p in (tmp_path / "up").iterdir()] == ["a"]


async def test_old_ones_go_unless_they_are_needed(tmp_path: Path, ledger: Ledger) -> None:
    """And their names are anybody's again."""
    daemon = _Daemon()
    uploads = _uploads(tmp_path, ledger, daemon)
    for name in ("needed", "old"):
        await uploads.put(name, _data(b"x"), ALICE)
        os.utime(tmp_path / "up" / name, (0, 0))
        daemon.needed = {"needed"}

    await uploads.put("new", _data(b"x"), BOB)
    assert {p.name for p in (tmp_path / "up").iterdir()} == {"needed", "new"}
    await uploads.put("old", _data(b"bob's"), BOB)
    _send(_uploads(tmp_path, ledger), "old", BOB)


async def test_they_go_without_another_upload(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer looks; who is about to send one keeps it."""
    monkeypatch.setattr("castrayd.casting.uploads.SWEEP_S", 0.02)
    uploads = _uploads(tmp_path, ledger)
    await uploads.put("a", _data(b"x"), ALICE)
    os.utime(tmp_path / "up" / "a", (0, 0))
    async with anyio.create_task_group() as tasks:
        with uploads.held("a", ALICE):
            tasks.start_soon(uploads.run)
            await anyio.sleep(0.2)
            assert (tmp_path / "up" / "a").exists()
        with anyio.fail_after(5):
            while (tmp_path / "up" / "a").exists():
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


async def test_one_that_is_for_one_transfer_goes_with_it(tmp_path: Path, ledger: Ledger) -> None:
    """Also after a restart; while it may be begun again it stays, and so do others' uploads."""
    daemon = _Daemon()
    uploads = _uploads(tmp_path, ledger, daemon)
    for name in ("kept", "once", "unsent"):
        await uploads.put(name, _data(b"x"), ALICE, once=name != "kept")
    for name in ("kept", "once"):
        await uploads.sent(name, name)

    def there() -> set[str]:
        return {path.name for path in (tmp_path / "up").iterdir()}

    for state in ("running", "failed", "partial"):
        daemon.states |= dict.fromkeys(("kept", "once"), state)
        await _uploads(tmp_path, ledger, daemon).put("new", _data(b"x"), ALICE)
        assert there() == {"kept", "once", "unsent", "new"}, state
    daemon.states |= dict.fromkeys(("kept", "once"), "done")
    await _uploads(tmp_path, ledger, daemon).put("new", _data(b"x"), ALICE)
    assert there() == {"kept", "unsent", "new"}


async def test_its_user_removes_it(tmp_path: Path, ledger: Ledger) -> None:
    """Nobody else does, and not while it is needed."""
    daemon = _Daemon()
    uploads = _uploads(tmp_path, ledger, daemon)
    await uploads.put("a", _data(b"x"), ALICE)

    async def refused(name: str, uid: int) -> ApiErrorType:
        with pytest.raises(ApiError) as caught:
            await uploads.delete(name, uid)
        return caught.value.type

    daemon.needed = {"a"}
    assert await refused("a", ALICE) is ApiErrorType.CONFLICT
    assert await _refused(uploads, "a", _data(b"y"), ALICE) is ApiErrorType.CONFLICT
    assert (tmp_path / "up" / "a").read_bytes() == b"x"
    daemon.needed = set()
    with uploads.held("a", ALICE):
        assert await refused("a", ALICE) is ApiErrorType.CONFLICT
    assert await refused("a", BOB) is ApiErrorType.FORBIDDEN
    assert await refused("b", ALICE) is ApiErrorType.NOT_FOUND
    await uploads.delete("a", ALICE)
    assert list((tmp_path / "up").iterdir()) == []
    await uploads.put("a", _data(b"bob's"), BOB)


async def test_disk_that_is_to_stay_free_stays_free(tmp_path: Path, ledger: Ledger) -> None:
    """It is the ledger's."""
    daemon = _Daemon()
    disk = os.statvfs(tmp_path)
    daemon.policy.disk_reserve_bytes = disk.f_blocks * disk.f_frsize
    uploads = _uploads(tmp_path, ledger, daemon)

    assert await _refused(uploads, "a", _data(b"x"), ALICE) is ApiErrorType.TOO_LARGE
    assert list((tmp_path / "up").iterdir()) == []


async def test_small_pieces_are_written_together(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 KiB come over the socket at a time; a thread for each costs more than the writing."""
    daemon = _Daemon()
    daemon.policy.upload_bytes = 2**30
    uploads = _uploads(tmp_path, ledger, daemon)
    calls: list[object] = []
    run = type(READS).run

    async def counted(self: Any, call: Any) -> Any:
        calls.append(call)
        return await run(self, call)

    monkeypatch.setattr(type(READS), "run", counted)
    await uploads.put("a", _data(*[os.urandom(2**16)] * 256), ALICE)

    assert (tmp_path / "up" / "a").stat().st_size == 2**24
    assert len(calls) < 12


async def test_what_a_crash_left_takes_no_room(tmp_path: Path, ledger: Ledger) -> None:
    """Nobody goes on with it."""
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / ".abc.part").write_bytes(b"x" * 90)
    await _uploads(tmp_path, ledger).put("a", _data(b"x" * 90), ALICE)

    assert [p.name for p in (tmp_path / "up").iterdir()] == ["a"]


async def test_one_that_stops_in_the_middle_holds_no_room(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("castrayd.casting.spool.IDLE_S", 0.1)
    uploads = _uploads(tmp_path, ledger)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * 90
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        assert await _refused(uploads, "a", stuck(), ALICE) is ApiErrorType.BAD_REQUEST
    assert list((tmp_path / "up").iterdir()) == []
    await uploads.put("b", _data(b"x" * 90), BOB)


async def test_room_is_counted_once(tmp_path: Path, ledger: Ledger) -> None:
    """Whatever is replaced, removed or refused: at the end there is as much as at first."""
    uploads = _uploads(tmp_path, ledger)
    for _ in range(3):
        await uploads.put("a", _data(b"x" * 40), ALICE)
        await uploads.put("b", _data(b"x" * 40), ALICE)
        assert await _refused(uploads, "c", _data(b"x" * 21), ALICE) is ApiErrorType.TOO_LARGE
        await uploads.put("a", _data(b"x" * 20), ALICE)
        for name in ("a", "b"):
            await uploads.delete(name, ALICE)
    await uploads.put("a", _data(b"x" * 100), ALICE)


async def test_small_ones_are_limited_in_number(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("castrayd.casting.spool.MOST", 2)
    uploads = _uploads(tmp_path, ledger)
    for name in ("a", "b"):
        await uploads.put(name, _data(), ALICE)
    assert await _refused(uploads, "c", _data(), ALICE) is ApiErrorType.TOO_LARGE


async def test_folders_among_them_are_somebody_elses(tmp_path: Path, ledger: Ledger) -> None:
    """They hinder neither the start nor an upload."""
    for name in (".hidden", "old"):
        (tmp_path / "up" / name).mkdir(parents=True)
        os.utime(tmp_path / "up" / name, (0, 0))
    await _uploads(tmp_path, ledger).put("a", _data(b"x"), ALICE)
    assert {p.name for p in (tmp_path / "up").iterdir()} == {".hidden", "old", "a"}


async def test_slow_disk_holds_up_no_small_reads(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tokens and settings, which the attachment waits for."""
    uploads, hangs = _uploads(tmp_path, ledger), threading.Event()
    monkeypatch.setattr("os.fsync", lambda _descriptor: hangs.wait(20))
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(uploads.put, str(number), _data(b"x"), ALICE)
        await anyio.sleep(0.3)
        with anyio.fail_after(5):
            assert await READS.run(lambda: 1) == 1
        hangs.set()


async def test_sender_is_placed_again_within_an_attachment(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been removed; those who ask at once ask for one. By another one, at once."""
    daemon = _Daemon()
    uploads = _uploads(tmp_path, ledger, daemon)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(uploads.sender)
    assert daemon.placed == ["_d-node"]
    daemon.attached = SimpleNamespace(attached=daemon.attached.attached)
    await uploads.sender()
    await uploads.sender()
    assert daemon.placed == ["_d-node"] * 2  # another attachment's may be on another cluster
    monkeypatch.setattr("castrayd.casting.uploads.LOOK_S", 0.0)
    await uploads.sender()
    assert daemon.placed == ["_d-node"] * 3
