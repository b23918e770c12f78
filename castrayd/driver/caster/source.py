"""A file that is being sent: read in chunks and hashed, and known not to change meanwhile."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from typing import Any

from castrayd.driver.caster.roots import FileRefusal

__all__ = ("Source",)


class Source:
    """An open regular file. Used by one transfer; its methods may run in several threads.

    Raises FileRefusal `source_changed` once the file is not what it was when it was opened.
    """

    def __init__(self, descriptor: int, chunk_bytes: int) -> None:
        """Own the descriptor."""
        self._descriptor = descriptor
        self._chunk_bytes = chunk_bytes
        self._identity = self._look()
        facts = os.fstat(descriptor)
        self.size = facts.st_size
        self.mode = stat.S_IMODE(facts.st_mode)
        self.mtime_ns = facts.st_mtime_ns
        self.count = -(-self.size // chunk_bytes)
        self.digests: list[bytes | None] = [None] * self.count
        """The sha256 of each chunk that has been read."""
        self._whole = hashlib.sha256()
        self._hashed = 0
        self._known: str | None = None
        """What the whole's sha256 must be, as it was told or found."""
        self.sha256 = None if self.count else self._whole.hexdigest()
        """Of the whole file, once all of it has been read in order."""
        self._spare: list[mmap.mmap] = []
        self._is_stopped = False

    def _look(self) -> tuple[int, int, int, int]:
        facts = os.fstat(self._descriptor)
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns

    def must_be(self, known: dict[str, Any]) -> None:
        """Refuse to be another file than the one with which the transfer began."""
        for key, here in (("size", self.size), ("mtime_ns", self.mtime_ns)):
            if known.get(key) not in {None, here}:
                raise FileRefusal("source_changed", f"the source's {key} is not what it was")
        self._known = known.get("sha256")

    @property
    def identity(self) -> dict[str, int]:
        """What a later sender of the same file must find."""
        return {"size": self.size, "mtime_ns": self.mtime_ns}

    @property
    def chunks(self) -> str:
        """The sha256 of all chunks' sha256 in order; of a file that has been read."""
        return hashlib.sha256(b"".join(filter(None, self.digests))).hexdigest()

    def length(self, index: int) -> int:
        """How long a chunk is: all are alike, but for the last."""
        return min(self._chunk_bytes, self.size - index * self._chunk_bytes)

    def read(self, index: int) -> memoryview:
        """Read a chunk into a buffer, which the caller gives back."""
        if self._is_stopped:
            raise FileRefusal("internal", "nobody wants it any more")
        self.check()  # that the rest is not sent in vain
        view = memoryview(self._buffer())[: self.length(index)]
        done, offset = 0, index * self._chunk_bytes
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if not count:
                raise _changed("is shorter than it was")
            done += count
        return view

    def _buffer(self) -> mmap.mmap:
        """Return a used one, which costs no page faults; of malloc each thread would keep some."""
        try:
            return self._spare.pop()
        except IndexError:
            return mmap.mmap(-1, self._chunk_bytes, flags=mmap.MAP_PRIVATE)

    def give_back(self, view: memoryview) -> None:
        """Take a buffer back that nobody reads any more."""
        buffer = view.obj
        view.release()
        if isinstance(buffer, mmap.mmap):
            self._spare.append(buffer)

    def digest(self, index: int, view: memoryview) -> bytes:
        """Return a chunk's sha256, which must be what it was if it was read before."""
        found = hashlib.sha256(view).digest()
        before = self.digests[index]
        if before is not None and before != found:
            raise _changed("has other bytes than before")
        self.digests[index] = found
        if self.count == 1:
            self._found(found.hex())
        return found

    def follow(self, index: int, view: memoryview) -> None:
        """Hash on to the whole file's sha256; called with each chunk in order, once."""
        if index != self._hashed or self.count == 1:  # a single chunk's is the whole's
            return
        self._whole.update(view)
        self._hashed += 1
        if self._hashed == self.count:
            self._found(self._whole.hexdigest())

    def hash_all(self) -> str:
        """Return the whole file's sha256, by reading it where it is not known before."""
        whole = hashlib.sha256()
        for index in range(self.count):
            if self.sha256 is not None:
                return self.sha256
            view = self.read(index)
            whole.update(view)
            self.give_back(view)
        return self._found(whole.hexdigest())

    def _found(self, sha256: str) -> str:
        """Take the whole's sha256, which is the same however often it is found."""
        if self._known not in {None, sha256}:
            raise _changed("has other bytes than before")
        self._known = self.sha256 = sha256
        return sha256

    def check(self) -> None:
        """Raise where the file has been changed since it was opened."""
        if self._look() != self._identity:
            raise _changed("was written to")

    def stop(self) -> None:
        """Read no more, however much there is."""
        self._is_stopped = True

    def close(self) -> None:
        """Close the file, when no thread reads it."""
        os.close(self._descriptor)
        self._spare.clear()  # the transfer is remembered, and need not keep its memory


def _changed(how: str) -> FileRefusal:
    return FileRefusal("source_changed", f"while it was sent, the source {how}")
