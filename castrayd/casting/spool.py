"""The folder of uploads: taken in whole or not at all, within what they may take of the disk.

What lies there is known here, so that nothing is counted twice or missed while it is renamed.
"""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import anyio

from castrayd.casting.policy import CastingPolicy
from castrayd.ownership import make_file, make_folder
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.threads import Threads

__all__ = ("Spool",)

PIECE_BYTES: Final = 4 * 2**20
"""Written by one call of a thread; what comes over the socket is smaller."""
LEAST_RESERVE: Final = 2**30
IDLE_S: Final = 60.0
"""Without a byte, after which one that sends holds no room any more."""
MOST: Final = 10_000
"""Files at once, however small."""
_DISK: Final = Threads(4)
"""Not those in which small files are read: a disk that is slow to sync holds up uploads alone."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Spool:
    """All files of one folder, and those on their way in."""

    def __init__(self, folder: Path, policy: Callable[[], CastingPolicy]) -> None:
        self._folder = folder
        self._policy = policy
        self._sizes: dict[str, int] = {}
        """Bytes by name; what is on its way in by a name of its own."""
        self._total = 0

    def restore(self) -> None:
        """See what is there, and remove what never came in whole; blocks, for the start."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if not path.is_file() or path.is_symlink():
                continue  # somebody else's
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
            else:
                self._note(path.name, path.stat().st_size)

    def __contains__(self, name: object) -> bool:
        return name in self._sizes

    @asynccontextmanager
    async def taken(self, data: AsyncIterable[bytes]) -> AsyncIterator[tuple[str, int]]:
        """Take data in; yields what it is called until it is published, and its bytes.

        Unless it is published it is removed. Raises `ApiError`: `too_large`; `bad_request` when
        nothing comes for a minute.
        """
        if len(self._sizes) >= MOST:
            raise ApiError(ApiErrorType.TOO_LARGE, f"there are {MOST} uploads already", _HINT)
        part = f".{uuid.uuid4().hex}.part"
        self._note(part, 0)
        try:
            await self._write(part, data)
            yield part, self._sizes[part]
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _full(error.strerror or "") from error
        finally:
            if part in self._sizes:
                self._forget(part)
                (self._folder / part).unlink(missing_ok=True)

    async def publish(self, part: str, name: str) -> None:
        """Give what was taken its name, in the place of any that has it; it outlives a crash."""
        (self._folder / part).rename(self._folder / name)
        self._note(name, self._forget(part))
        await _DISK.run(self._sync_folder)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _note(self, name: str, size: int) -> None:
        self._forget(name)
        self._sizes[name] = size
        self._total += size

    def _forget(self, name: str) -> int:
        size = self._sizes.pop(name, 0)
        self._total -= size
        return size

    async def _write(self, part: str, data: AsyncIterable[bytes]) -> None:
        await _DISK.run(lambda: self._make(part))
        with (self._folder / part).open("wb", buffering=0) as file:
            async for piece in self._pieces(part, data):
                await _DISK.run(lambda piece=piece: self._append(file, piece))  # type: ignore[misc]
            await _DISK.run(lambda: os.fsync(file.fileno()))

    def _make(self, part: str) -> None:
        make_folder(self._folder)
        make_file(self._folder / part)

    async def _pieces(self, part: str, data: AsyncIterable[bytes]) -> AsyncIterator[bytearray]:
        """Gather what comes, as far as it may take room."""
        piece = bytearray()
        chunks = aiter(data)
        while (chunk := await _next(chunks)) is not None:
            self._note(part, self._sizes[part] + len(chunk))
            if self._total > self._policy().upload_bytes:
                message = f"uploads may take {self._policy().upload_bytes} bytes together"
                raise ApiError(ApiErrorType.TOO_LARGE, message, _HINT)
            piece += chunk
            if len(piece) >= PIECE_BYTES:
                yield piece
                piece = bytearray()
        yield piece

    def _append(self, file: BinaryIO, piece: bytearray) -> None:
        disk = os.fstatvfs(file.fileno())
        if disk.f_bavail * disk.f_frsize - len(piece) < self._reserve(disk):
            raise _full("what is to stay free of it is reached")
        left = memoryview(piece)
        while left:
            left = left[file.write(left) :]

    def _reserve(self, disk: os.statvfs_result) -> int:
        """Return what stays free: the ledger is on the same disk. As a casting node does."""
        wanted = self._policy().disk_reserve_bytes
        whole = disk.f_blocks * disk.f_frsize
        return max(LEAST_RESERVE, whole * 6 // 100) if wanted is None else wanted

    async def old(self, age_s: float) -> set[str]:
        """Name what is older, and notice what somebody has removed."""
        names = [name for name in self._sizes if not name.startswith(".")]
        times = await _DISK.run(lambda: {name: self._time_of(name) for name in names})
        for name in [name for name, at in times.items() if at is None]:
            self._forget(name)
        oldest = time.time() - age_s  # noqa: TID251  files have wall times
        return {name for name, at in times.items() if at is not None and at < oldest}

    def _time_of(self, name: str) -> float | None:
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / name).stat().st_mtime
        return None

    async def remove(self, name: str) -> None:
        """Remove one, if it is there: at once, for whoever asks."""
        self._forget(name)
        await _DISK.run(lambda: (self._folder / name).unlink(missing_ok=True))


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    """Return what comes next, None at the end; whoever stops in the middle is sent away."""
    try:
        with anyio.fail_after(IDLE_S):
            return await anext(chunks, None)
    except TimeoutError:
        raise ApiError(ApiErrorType.BAD_REQUEST, f"nothing came for {IDLE_S:.0f} s") from None


def _full(why: str) -> ApiError:
    message = f"the disk of daemon.state_dir has no room: {why}"
    return ApiError(ApiErrorType.TOO_LARGE, message, "Make room there.")


_HINT: Final = "Remove some, wait until older ones go, or raise casting.upload_bytes."
