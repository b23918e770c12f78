"""A file that is being received: its bytes, and beside them what of them is verified.

The bytes are in `.castray-<id>.part` in the folder where the file will stand, the verified chunks
in `.castray-<id>.log`: a header, then for each chunk its index and its sha256, appended after the
chunk was written. Whoever resumes hashes what the log claims, so that neither need be in step
with the other after a crash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct

from castrayd.driver.caster.roots import TEMP_PREFIX

__all__ = ("Partial", "discard")

_HEADER = ">8sQI"
_HEADER_BYTES = struct.calcsize(_HEADER)
_MAGIC = b"castray1"
_RECORD = ">I32s"  # a format, for a Struct cannot go to the cluster by value
_RECORD_BYTES = struct.calcsize(_RECORD)
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
SYNC_BYTES = 64 * 1024 * 1024
"""After so many the data are synced: a slow disk is felt on the way, not all at the end."""


class Partial:
    """One file in progress, open in the folder `folder`. Not thread-safe; raises OSError."""

    def __init__(self, folder: int, transfer: str, size: int, chunk_bytes: int) -> None:
        self._folder = folder
        self._part, self._log = _names(transfer)
        self.size = size
        self._chunk_bytes = chunk_bytes
        self.held: dict[int, bytes] = {}
        """The sha256 of each chunk that is verified and written, by index."""
        self._data = self._claims = -1
        self._unsynced = 0

    @property
    def count(self) -> int:
        """How many chunks the file has."""
        return -(-self.size // self._chunk_bytes)

    def length(self, index: int) -> int:
        """How long a chunk is: all are alike, but for the last."""
        return min(self._chunk_bytes, self.size - index * self._chunk_bytes)

    def resume(self) -> bool:
        """Open what an earlier process left, keeping what is still true; False if nothing fits."""
        try:
            self._data = os.open(self._part, os.O_RDWR | _OLD, dir_fd=self._folder)
            self._claims = os.open(self._log, os.O_RDWR | os.O_APPEND | _OLD, dir_fd=self._folder)
            claimed = self._claimed()
        except FileNotFoundError:
            claimed = None
        if claimed is None:
            self.discard()
            return False
        self.held = {i: digest for i, digest in claimed.items() if self._is_true(i, digest)}
        return True

    def _claimed(self) -> dict[int, bytes] | None:
        """Read the log; None when it is of another file than ours. A torn last record is cut."""
        facts = os.fstat(self._data)
        header = os.pread(self._claims, _HEADER_BYTES, 0)
        if (
            header != self._header()
            or not stat.S_ISREG(facts.st_mode)
            or facts.st_size != self.size
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
        data = os.pread(self._data, self.length(index), index * self._chunk_bytes)
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

    def write(self, index: int, digest: bytes, data: memoryview) -> None:
        """Write a verified chunk, then claim it."""
        offset = index * self._chunk_bytes
        written = 0
        while written < len(data):
            written += os.pwrite(self._data, data[written:], offset + written)
        os.write(self._claims, struct.pack(_RECORD, index, digest))
        self.held[index] = digest
        self._unsynced += len(data)

    def take_sync_turn(self) -> int | None:
        """Return a descriptor to sync and close, when enough is unsynced; else None."""
        if self._unsynced < SYNC_BYTES:
            return None
        self._unsynced = 0
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


def discard(folder: int, transfer: str) -> None:
    """Remove what there is of a file in progress; raises OSError."""
    _remove(folder, *_names(transfer))


def _names(transfer: str) -> tuple[str, str]:
    return f"{TEMP_PREFIX}{transfer}.part", f"{TEMP_PREFIX}{transfer}.log"


def _remove(folder: int, *names: str) -> None:
    for name in names:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            continue
