"""Uploads: files of this host that wait to be sent, and the casting node that sends them.

They lie in the daemon's own folder. A node of no public name on this daemon's Ray node, which runs
under the same user, reads them from there. Each belongs to the user who has uploaded it.
"""

import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Final, NoReturn

import anyio
from msgspec import Struct

from castrayd.casting.link import Link
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.records import Records
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.threads import READS

__all__ = ("Uploads",)

LOOK_S: Final = 2.0
"""For so long a sender that was there is taken to be there."""


class Upload(Struct, frozen=True):
    """Whose an upload is, as the ledger keeps it."""

    name: str
    uid: int


class Uploads:
    """All uploads of one daemon."""

    def __init__(  # noqa: PLR0913, PLR0917  the casting service names each part once
        self,
        folder: Path,
        link: Link,
        records: Records,
        place: Callable[[str, str, Mapping[str, Any]], Awaitable[None]],
        policy: Callable[[], CastingPolicy],
        in_use: Callable[[], set[str]],
    ) -> None:
        """`place` sees that a node of this name is on that Ray node and has those roots."""
        self._in_use = in_use
        self._folder = folder
        self._link = link
        self._records = records
        self._place = place
        self._policy = policy
        self._owners: dict[str, int] = {}
        self._turn = anyio.Lock()
        self._placing = anyio.Lock()
        self._sender: tuple[object, str, float] | None = None
        """By which attachment, its name, and when it was there last."""

    def restore(self) -> None:
        """Read from the ledger whose they are; once, before anything else."""
        self._owners = {one.name: one.uid for one in self._records.all(Upload)}

    def check(self, name: str, uid: int) -> None:
        """Raise `ApiError` unless a user may send an upload: `not_found`, `forbidden`."""
        if not (self._folder / name).is_file():
            message = f"no such upload: {name}"
            raise ApiError(ApiErrorType.NOT_FOUND, message, field="source.upload")
        self._check_owner(name, uid, "source.upload")

    def _check_owner(self, name: str, uid: int, field: str) -> None:
        """Refuse whoever is not its owner; one that nobody is known to own is the daemon's."""
        if uid in {0, os.geteuid(), self._owners.get(name)} or not (self._folder / name).exists():
            return
        raise ApiError(ApiErrorType.FORBIDDEN, f"upload {name} is another user's", field=field)

    async def put(self, name: str, data: AsyncIterable[bytes], uid: int) -> int:
        """Take a user's upload in, whole or not at all; returns its bytes.

        Raises `ApiError`: `forbidden` where another user's has the name, `too_large` beyond what
        all uploads together may take.
        """
        self._check_owner(name, uid, "name")
        await self._sweep()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / f".{uuid.uuid4().hex}.part"
        try:
            size = await self._write(part, data)
            async with self._turn:
                self._check_owner(name, uid, "name")  # another's may have come meanwhile
                await self._records.put(Upload, name, Upload(name, uid))
                self._owners[name] = uid
                part.rename(self._folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return size

    async def _write(self, part: Path, data: AsyncIterable[bytes]) -> int:
        size = 0
        with part.open("wb") as file:
            async for chunk in data:
                await READS.run(lambda chunk=chunk: self._append(file, chunk))  # type: ignore[misc]
                size += len(chunk)
            await READS.run(lambda: os.fsync(file.fileno()))
        return size

    def _append(self, file: BinaryIO, chunk: bytes) -> None:
        file.write(chunk)
        file.flush()
        if sum(facts.st_size for facts in self._there().values()) > self._policy().upload_bytes:
            self._refuse()

    def _there(self) -> dict[str, os.stat_result]:
        """Return what lies in the folder, those too that are on their way in."""
        found = {}
        for one in self._folder.iterdir() if self._folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # it has got its name meanwhile
                found[one.name] = one.stat()
        return found

    def _refuse(self) -> NoReturn:
        message = f"uploads may take {self._policy().upload_bytes} bytes together"
        raise ApiError(ApiErrorType.TOO_LARGE, message, _HINT)

    async def _sweep(self) -> None:
        """Remove what is older than uploads may be, and forget whose it was."""
        async with self._turn:
            left = await READS.run(self._swept)
            for name in set(self._owners) - left:
                await self._records.delete(Upload, name)
                del self._owners[name]

    def _swept(self) -> set[str]:
        """Remove what is too old, unless it is needed; returns the names that are left."""
        oldest = time.time() - self._policy().upload_s  # noqa: TID251  files have wall times
        there, needed = self._there(), self._in_use()
        old = {name for name, facts in there.items() if facts.st_mtime < oldest} - needed
        for name in old:
            (self._folder / name).unlink(missing_ok=True)
        return set(there) - old

    async def sender(self) -> str:
        """Return the node that sends uploads, made where it is not there, or not any more.

        Raises `ApiError` (`conflict`) without a Ray node on this host, and `RecipientError`.
        """
        attachment = self._link.attachment()
        async with self._placing:
            if self._sender is not None:
                known, name, seen_s = self._sender
                if known is attachment and monotonic() - seen_s < LOOK_S:
                    return name
            node_id = attachment.attached.facts.node_id
            if node_id is None:
                message = "an upload needs a Ray node on this host"
                raise ApiError(ApiErrorType.CONFLICT, message, "Attach by HOST:PORT, not ray://.")
            name = f"{self._link.hidden}{node_id[:8]}"
            roots = {"uploads": {"path": str(self._folder), "write": False}}
            await self._place(name, node_id, roots)
            self._sender = (attachment, name, monotonic())
        return name


_HINT: Final = "Wait until older ones are removed, or raise casting.upload_bytes."
