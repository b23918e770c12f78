"""Uploads: whose they are, how much they may take, and how long they stay."""

import os
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

ALICE, BOB = 64_321, 64_322
"""Uids that are neither root nor ours."""


async def _place(*_: object) -> None:
    raise AssertionError("nothing is sent")


def _uploads(folder: Path, ledger: Ledger, needed: set[str] | None = None) -> Uploads:
    policy: Any = SimpleNamespace(upload_bytes=100, upload_s=60.0)
    link: Any = None  # without a cluster nothing is sent
    uploads = Uploads(
        folder / "up", link, Records(ledger), _place, lambda: policy, lambda: needed or set()
    )
    uploads.restore()
    return uploads


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

    assert _refusal(uploads.check, "a", BOB) is ApiErrorType.FORBIDDEN
    assert await _refused(uploads, "a", _data(b"x"), BOB) is ApiErrorType.FORBIDDEN
    assert (tmp_path / "up" / "a").read_bytes() == b"alice's"
    for uid in (ALICE, 0, os.geteuid()):
        uploads.check("a", uid)
    await uploads.put("a", _data(b"again"), ALICE)
    await uploads.put("a", _data(b"root's"), 0)
    assert _refusal(uploads.check, "a", ALICE) is ApiErrorType.FORBIDDEN


async def test_one_of_an_unknown_owner_is_roots(tmp_path: Path, ledger: Ledger) -> None:
    """With the ledger lost it cannot be told whose it was."""
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_bytes(b"?")
    uploads = _uploads(tmp_path, ledger)

    assert _refusal(uploads.check, "a", ALICE) is ApiErrorType.FORBIDDEN
    assert _refusal(uploads.check, "b", ALICE) is ApiErrorType.NOT_FOUND
    uploads.check("a", 0)


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
        await anyio.wait_all_tasks_blocked()
        while not any(p.stat().st_size for p in (tmp_path / "up").iterdir()):
            await anyio.sleep(0.01)
        kind = await _refused(uploads, "b", _data(b"x" * 30, b"x" * 30), BOB)
        over.set()

    assert kind is ApiErrorType.TOO_LARGE
    assert [p.name for p in (tmp_path / "up").iterdir()] == ["a"]


async def test_old_ones_go_unless_they_are_needed(tmp_path: Path, ledger: Ledger) -> None:
    """And their names are anybody's again."""
    uploads = _uploads(tmp_path, ledger, {"needed"})
    for name in ("old", "needed"):
        await uploads.put(name, _data(b"x"), ALICE)
        os.utime(tmp_path / "up" / name, (0, 0))

    await uploads.put("new", _data(b"x"), BOB)
    assert {p.name for p in (tmp_path / "up").iterdir()} == {"needed", "new"}
    await uploads.put("old", _data(b"bob's"), BOB)
    _uploads(tmp_path, ledger).check("old", BOB)
