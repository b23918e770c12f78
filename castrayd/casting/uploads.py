"""Uploads: files of this host that wait to be sent, and the casting node that sends them.

They lie in the daemon's own folder. A node of no public name on this daemon's Ray node, which runs
under the same user, reads them from there. Each belongs to the user who has uploaded it.
"""

import contextlib
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final

import anyio
import structlog
from msgspec import Struct
from msgspec.structs import replace

from castrayd.casting.link import Link
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.records import Records
from castrayd.casting.spool import Spool
from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("Uploads",)

SWEEP_S: Final = 10.0
LOOK_S: Final = 2.0
"""For so long a sender that was there is taken to be there."""
_SPENT: Final = frozenset({"done", "cancelled", None})
"""States of a transfer that does not go on, and is not begun again either; None: forgotten."""

log = structlog.get_logger("castrayd.casting")


class Upload(Struct, frozen=True):
    """Whose an upload is, as the ledger keeps it."""

    name: str
    uid: int
    once: bool = False
    """Whether it is for one transfer, and goes with it."""
    transfer: str | None = None
    """For which it is, once that is known."""


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
        state_of: Callable[[str], str | None],
    ) -> None:
        """`place` sees that a node of this name is on that Ray node and has those roots.

        `in_use` names the uploads that transfers need; `state_of` is that of a transfer.
        """
        self._link = link
        self._records = records
        self._place = place
        self._in_use = in_use
        self._state_of = state_of
        self._spool = Spool(folder, policy)
        self._folder = folder
        self._policy = policy
        self._uploads: dict[str, Upload] = {}
        self._held: list[str] = []
        """That are about to be sent."""
        self._turn = anyio.Lock()
        self._placing = anyio.Lock()
        self._sender: tuple[object, str, float] | None = None
        """By which attachment, its name, and when it was there last."""

    def restore(self) -> None:
        """Read from the ledger whose they are; once, before anything else."""
        self._uploads = {one.name: one for one in self._records.all(Upload)}
        self._spool.restore()

    async def run(self) -> None:
        """Remove what is not needed any more, until cancelled."""
        while True:
            await anyio.sleep(SWEEP_S)
            try:
                await self._sweep()
            except Exception as error:
                log.error("the uploads could not be swept", exc_info=error)

    # --- what the API asks ---

    @contextlib.contextmanager
    def held(self, name: str, uid: int) -> Iterator[None]:
        """Keep an upload that its user is about to send. Raises `ApiError` as `_check` does."""
        self._check(name, uid, "source.upload")
        self._held.append(name)
        try:
            yield
        finally:
            self._held.remove(name)

    async def sent(self, name: str, transfer_id: str) -> None:
        """Note for which transfer an upload is that is for one alone."""
        async with self._turn:
            known = self._uploads.get(name)
            if known is not None and known.once:
                await self._keep(replace(known, transfer=transfer_id))

    async def put(
        self, name: str, data: AsyncIterable[bytes], uid: int, *, once: bool = False
    ) -> int:
        """Take a user's upload in, whole or not at all; returns its bytes.

        Raises `ApiError`: `forbidden` where another user's has the name, `conflict` where a
        transfer needs what has it, and as `Spool.taken` does.
        """
        self._check_free(name, uid)
        await self._sweep()
        async with self._spool.taken(data) as (part, size), self._turn:
            self._check_free(name, uid)  # another's may have come meanwhile
            await self._keep(Upload(name, uid, once))
            await self._spool.publish(part, name)
        return size

    async def delete(self, name: str, uid: int) -> None:
        """Remove a user's upload.

        Raises `ApiError`: `not_found`, `forbidden`; `conflict` while a transfer needs it.
        """
        self._check(name, uid, "name")
        async with self._turn:
            self._check(name, uid, "name")
            self._check_free(name, uid)
            await self._remove(name)

    def _check_free(self, name: str, uid: int) -> None:
        """Refuse what would take from a transfer what it was accepted for."""
        self._check_owner(name, uid, "name")
        if name in self._needed():
            message = f"a transfer needs upload {name}"
            raise ApiError(ApiErrorType.CONFLICT, message, "Cancel the transfer first.")

    def _check(self, name: str, uid: int, field: str) -> None:
        """Raise `ApiError` unless a user may have it: `not_found`, `forbidden`."""
        if name not in self._spool:
            message = f"no such upload: {name}"
            raise ApiError(ApiErrorType.NOT_FOUND, message, field=field)
        self._check_owner(name, uid, field)

    def _check_owner(self, name: str, uid: int, field: str) -> None:
        """Refuse whoever is not its owner; one that nobody is known to own is the daemon's."""
        known = self._uploads.get(name)
        owner = None if known is None else known.uid
        if uid in {0, os.geteuid(), owner} or name not in self._spool:
            return
        raise ApiError(ApiErrorType.FORBIDDEN, f"upload {name} is another user's", field=field)

    async def _keep(self, one: Upload) -> None:
        await self._records.put(Upload, one.name, one)
        self._uploads[one.name] = one

    def _needed(self) -> set[str]:
        return {*self._in_use(), *self._held}

    # --- what goes ---

    async def _sweep(self) -> None:
        """Remove what is too old, or was for one transfer, unless it is needed."""
        async with self._turn:
            old = await self._spool.old(self._policy().upload_s)
            for name in {*old, *self._spent()}:
                if name not in self._needed():
                    await self._remove(name)
            for name in [name for name in self._uploads if name not in self._spool]:
                await self._forget(name)

    def _spent(self) -> set[str]:
        """Name those that were for one transfer which has ended well, or is not wanted."""
        sent = [one for one in self._uploads.values() if one.transfer is not None]
        return {one.name for one in sent if self._state_of(one.transfer or "") in _SPENT}

    async def _remove(self, name: str) -> None:
        await self._spool.remove(name)
        await self._forget(name)

    async def _forget(self, name: str) -> None:
        await self._records.delete(Upload, name)
        self._uploads.pop(name, None)

    # --- who sends ---

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
