"""A file that is being received: its bytes, and beside them what of them is verified.

The bytes are in `.castray-<stem>.part` in the folder where the file will stand, the verified chunks
in `.castray-<stem>.log`: a header, then for each chunk its index and its sha256, appended after the
chunk was written. Whoever resumes hashes what the log claims, so that neither need be in step
with the other after a crash. The stem names the transfer and the node: two nodes of one host may
have one root.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable

from castrayd.driver.caster.roots import TEMP_PREFIX

__all__ = ("Partial", "discard")

_HEADER = ">8sQI"
_HEADER_BYTES = struct.calcsize(_HEADER)
_MAGIC = b"castray1"
_RECORD = ">I32s"  # a format, for a Struct cannot go to the cluster by value
_RECORD_BYTES = struct.calcsize(_RECORD)
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Partial:
    """One file in progress, open in the folder `folder`. Not thread-safe; raises OSError."""

    def __init__(self, folder: int, stem: str, size: int, chunk_bytes: int) -> None:
        self._folder = folder
        self._part, self._log = _names(stem)
        self.size = size
        self._chunk_bytes = chunk_bytes
        self.held: dict[int, bytes] = {}
        """The sha256 of each chunk that is verified and written, by index."""
        self._data = self._claims = -1

    @property
    def count(self) -> int:
        """How many chunks the file has."""
        return -(-self.size // self._chunk_bytes)

    def length(self, index: int) -> int:
        """How long a chunk is: all are alike, but for the last."""
        return min(self._chunk_bytes, self.size - index * self._chunk_bytes)

    def offset(self, index: int) -> int:
        """Where a chunk begins."""
        return index * self._chunk_bytes

    def resume(self, is_published: Callable[[os.stat_result], bool]) -> bool:
        """Open what an earlier process left, keeping what is still true; False if nothing fits.

        `is_published` says whether it has its final name already, beside that of a part.
        """
        try:
            self._data = os.open(self._part, os.O_RDWR | _OLD, dir_fd=self._folder)
            self._claims = os.open(self._log, os.O_RDWR | os.O_APPEND | _OLD, dir_fd=self._folder)
            claimed = self._claimed(is_published)
        except FileNotFoundError:
            claimed = None
        if claimed is None:
            self.discard()
            return False
        self.held = {i: digest for i, digest in claimed.items() if self._is_true(i, digest)}
        return True

    def _claimed(self, is_published: Callable[[os.stat_result], bool]) -> dict[int, bytes] | None:
        """Read the log; None when it is of another file than ours. A torn last record is cut."""
        facts = os.fstat(self._data)
        if (
            not _is_ours(os.fstat(self._claims))
            or not (_is_ours(facts) or (_is_ours(facts, 2) and is_published(facts)))
            or facts.st_size != self.size
            or os.pread(self._claims, _HEADER_BYTES, 0) != self._header()
        ):
            return None
        length = os.fstat(self._claims).st_size - _HEADER_BYTES
        whole = length - length % _RECORD_BYTES
        os.ftruncate(self._claims, _HEADER_BYTES + whole)
        records = struct.iter_unpack(_RECORD, os.pread(self._claims, whole, _HEADER_BYTES))
        return {index: digest for index, digest in records if index < self.count}

    def _header(self) -> bytes:
        return struct.pack(_HEADER, _MAGIC, self.size, self._chunk_bytes)

    def _is_true(self, index: int, digest: bytes) -> bool:
        data = os.pread(self._data, self.length(index), self.offset(index))
        return hashlib.sha256(data).digest() == digest

    def to_write(self) -> int:
        """How many bytes the file will still take on the disk; all of them before it is made."""
        if self._data < 0:
            return self.size
        return max(0, self.size - os.fstat(self._data).st_blocks * 512)

    def make(self) -> None:
        """Make it, with room on the disk for all of it; leaves nothing behind when that fails."""
        try:
            self._data = os.open(self._part, os.O_RDWR | _NEW, 0o600, dir_fd=self._folder)
            self._allocate()
            flags = os.O_RDWR | os.O_APPEND | _NEW
            self._claims = os.open(self._log, flags, 0o600, dir_fd=self._folder)
            os.write(self._claims, self._header())
        except OSError:
            self.discard()
            raise

    def _allocate(self) -> None:
        os.ftruncate(self._data, self.size)
        if not self.size:
            return
        try:
            os.posix_fallocate(self._data, 0, self.size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                raise

    def is_linked(self) -> bool:
        """Whether its bytes have another name too, as what is published: nobody may change them."""
        return os.fstat(self._data).st_nlink > 1

    def write(self, index: int, digest: bytes, data: memoryview) -> None:
        """Write a verified chunk, then claim it."""
        offset = self.offset(index)
        written = 0
        while written < len(data):
            written += os.pwrite(self._data, data[written:], offset + written)
        os.write(self._claims, struct.pack(_RECORD, index, digest))
        self.held[index] = digest

    def duplicate(self) -> int:
        """Return a descriptor of the bytes, which the caller closes."""
        return os.dup(self._data)

    def missing(self) -> list[int]:
        """Return the chunks that are not here yet."""
        return [index for index in range(self.count) if index not in self.held]

    def seal(self, mode: int) -> os.stat_result:
        """Make the bytes last, with their final mode; returns what they are, to be recognised."""
        os.fchmod(self._data, mode)
        os.fsync(self._data)
        return os.fstat(self._data)

    @property
    def part_name(self) -> str:
        """The name under which the bytes stand until they are whole."""
        return self._part

    def close(self) -> None:
        """Close it, leaving all on the disk."""
        for descriptor in (self._data, self._claims):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._claims = -1

    def discard(self) -> None:
        """Close it and remove it from the disk."""
        self.close()
        _remove(self._folder, self._part, self._log)


def discard(folder: int, stem: str) -> None:
    """Remove what there is of a file in progress; raises OSError."""
    _remove(folder, *_names(stem))


def _is_ours(facts: os.stat_result, links: int = 1) -> bool:
    """Whether we have made it: whoever may write in the folder can link a file of ours there."""
    is_mine = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
    return is_mine and facts.st_nlink == links


def _names(stem: str) -> tuple[str, str]:
    return f"{TEMP_PREFIX}{stem}.part", f"{TEMP_PREFIX}{stem}.log"


def _remove(folder: int, *names: str) -> None:
    for name in names:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            continue
