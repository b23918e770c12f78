"""Uploads: files of this host that wait to be sent, and the casting node that sends them.

They lie in the daemon's own folder. A node of no public name on this daemon's Ray node, which runs
under the same user, reads them from there.
"""

import os
import time
from collections.abc import AsyncIterable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from castrayd.casting.link import Link
from castrayd.casting.policy import CastingPolicy
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.threads import READS

__all__ = ("HIDDEN", "Uploads")

HIDDEN: Final = "_"
"""What names of nodes begin with that are nobody's recipients."""


class Uploads:
    """All uploads of one daemon."""

    def __init__(
        self,
        folder: Path,
        link: Link,
        spec: Callable[[str, str, Mapping[str, Any]], dict[str, Any]],
        policy: Callable[[], CastingPolicy],
        in_use: Callable[[], set[str]],
    ) -> None:
        """`spec` makes a node's from name, node id and roots."""
        self._in_use = in_use
        self._folder = folder
        self._link = link
        self._spec = spec
        self._policy = policy
        self._sender: tuple[object, str] | None = None

    async def put(self, name: str, data: AsyncIterable[bytes]) -> int:
        """Take an upload in, whole or not at all; returns its bytes.

        Raises `ApiError` (`too_large`) beyond what all uploads together may take.
        """
        await READS.run(self._sweep)
        room = self._policy().upload_bytes - await READS.run(self._used)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / f".{name}.part"
        size = 0
        try:
            with part.open("wb") as file:
                async for chunk in data:
                    size += len(chunk)
                    if size > room:
                        self._refuse()
                    await READS.run(lambda chunk=chunk: file.write(chunk))  # type: ignore[misc]
                file.flush()
                await READS.run(lambda: os.fsync(file.fileno()))
            part.rename(self._folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return size

    def _refuse(self) -> NoReturn:
        message = f"uploads may take {self._policy().upload_bytes} bytes together"
        raise ApiError(ApiErrorType.TOO_LARGE, message, _HINT)

    def has(self, name: str) -> bool:
        """Whether there is such an upload."""
        return (self._folder / name).is_file()

    def _used(self) -> int:
        if not self._folder.is_dir():
            return 0
        return sum(one.stat().st_size for one in self._folder.iterdir())

    def _sweep(self) -> None:
        """Remove what is older than uploads may be."""
        if not self._folder.is_dir():
            return
        oldest = time.time() - self._policy().upload_s  # noqa: TID251  files have wall times
        for one in self._folder.iterdir():
            if one.stat().st_mtime < oldest and one.name not in self._in_use():
                one.unlink(missing_ok=True)

    async def sender(self) -> str:
        """Return the node that sends uploads, made where it is not there.

        Raises `ApiError` (`conflict`) without a Ray node on this host.
        """
        attachment = self._link.attachment()
        if self._sender is not None and self._sender[0] is attachment:
            return self._sender[1]
        node_id = attachment.attached.facts.node_id
        if node_id is None:
            message = "an upload needs a Ray node on this host"
            raise ApiError(ApiErrorType.CONFLICT, message, "Attach by HOST:PORT, not ray://.")
        name = f"{HIDDEN}{self._link.daemon_id[:16]}-{node_id[:8]}"
        roots = {"uploads": {"path": str(self._folder), "write": False}}
        await self._link.place(self._spec(name, node_id, roots))
        self._sender = (attachment, name)
        return name


_HINT: Final = "Wait until older ones are removed, or raise casting.upload_bytes."
