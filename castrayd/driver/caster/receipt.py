"""One file on its way in: begun or resumed, taken chunk by chunk, published whole."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

from castrayd.driver.caster.partial import Partial
from castrayd.driver.caster.publish import (
    is_published,
    publish,
    standing,
    standing_sha256,
)
from castrayd.driver.caster.roots import FileRefusal, Roots
from castrayd.driver.caster.writeback import write_back

__all__ = ("Receipt", "Reserve")

Reserve = Callable[[os.statvfs_result], int]
"""How many bytes of a file system are to stay free."""


class Receipt:
    """Thread-safe; raises FileRefusal and OSError. `note` is called before a file is made."""

    def __init__(
        self, stem: str, roots: Roots, reserve: Reserve, note: Callable[[str], None]
    ) -> None:
        self._stem = stem
        self._roots = roots
        self._reserve = reserve
        self._note = note
        self._lock = threading.Lock()
        self._spec: dict[str, Any] = {}
        self._folder = -1
        self._partial: Partial | None = None
        self._result: dict[str, Any] | None = None
        self._generation = ""
        self._is_over = False
        self._touched = time.monotonic()

    def idle_s(self) -> float:
        """Return for how long nobody has asked anything of it."""
        return time.monotonic() - self._touched

    def begin(self, spec: dict[str, Any]) -> dict[str, Any] | None:
        """Make it, resume it, or go on with it; see `Incoming.begin`. None once it is over."""
        self._touched = time.monotonic()
        with self._lock:
            if self._is_over:
                return None
            if self._result:
                return {"done": self._result}
            if self._partial is None or not _same(spec, self._spec):
                self._leave()
                there = self._open(spec)
                if there:
                    return {"there": there, "have": []}
            self._generation = os.urandom(8).hex()
            return {"have": self._have(), "generation": self._generation}

    def _have(self) -> list[list[Any]]:
        held = self._partial.held if self._partial else {}
        return [[index, digest.hex()] for index, digest in sorted(held.items())]

    def _open(self, spec: dict[str, Any]) -> str | None:
        """Open it; returns the sha256 of what stands there when that could be the same file."""
        self._spec = spec
        try:
            there = self._look()
            if there is None:
                self._ready()
        except BaseException:
            self._leave()
            raise
        if there is not None:
            self._leave()
        return there

    def _look(self) -> str | None:
        """Look at what stands under the name; raises FileRefusal where it may not be touched."""
        path, size = self._spec["path"], self._spec["size"]
        try:
            self._folder, leaf = self._roots.open_parent(path, make=False)
        except FileRefusal as refusal:
            if refusal.type != "not_found":
                raise
            return None
        there = standing(self._folder, leaf)
        if there is None:
            return None
        regular = stat.S_ISREG(there.st_mode)
        if regular and there.st_size == size and not self._spec.get("differs"):
            return standing_sha256(self._folder, leaf)
        if_exists = self._spec["if_exists"]
        if if_exists == "refuse" or (if_exists == "replace" and not regular):
            raise FileRefusal("exists", f"{path}: something else is there already")
        return None

    def _ready(self) -> None:
        """Resume what an earlier process left, or make it, where there is room for it."""
        resumed = self._folder >= 0 and self._new_partial().resume(self._is_published)
        if not resumed:
            self._partial = None
        self._check_space(resumed=resumed)
        self._note(self._spec["path"])
        if not resumed:
            if self._folder < 0:
                self._folder, _ = self._roots.open_parent(self._spec["path"])
            self._new_partial().make()

    def _is_published(self, part: os.stat_result) -> bool:
        leaf = self._spec["path"].rpartition(":")[2].rpartition("/")[2]
        return is_published(self._folder, part, leaf)

    def _new_partial(self) -> Partial:
        spec = self._spec
        self._partial = Partial(self._folder, self._stem, spec["size"], spec["chunk_bytes"])
        return self._partial

    def _check_space(self, *, resumed: bool) -> None:
        needed = self._partial.to_write() if self._partial else self._spec["size"]
        if resumed and not needed:
            return
        disk = self._roots.space(self._spec["path"])
        free, reserve = disk.f_bavail * disk.f_frsize, self._reserve(disk)
        if free < needed + reserve:
            message = f"{needed} bytes to write and {reserve} to stay free, but {free} are free"
            raise FileRefusal("disk_full", f"{self._spec['path']}: {message}")

    def take(self, chunk: dict[str, Any], data: memoryview, *, again: bool) -> int:
        """Verify and write a chunk; returns its length. No view of `data` is kept.

        One that is held already is not written again, and verified only if it is sent `again`.
        """
        self._touched = time.monotonic()
        index, digest = chunk["index"], bytes.fromhex(chunk["sha256"])
        partial = self._begun(chunk["generation"])
        if not 0 <= index < partial.count or len(data) != partial.length(index):
            raise FileRefusal("internal", f"chunk {index} of {len(data)} bytes fits nowhere")
        if partial.held.get(index) != digest or again:
            if hashlib.sha256(data).digest() != digest:
                raise FileRefusal("checksum_mismatch", f"chunk {index} is not what was sent")
            self._write(chunk, digest, data)
        return len(data)

    def _begun(self, generation: str) -> Partial:
        """Return what is open; a call of before it was begun last has come too late."""
        partial = self._open_partial()
        if generation != self._generation:
            raise FileRefusal("unknown_transfer", "it was begun again since this was sent")
        return partial

    def _write(self, chunk: dict[str, Any], digest: bytes, data: memoryview) -> None:
        # under the lock: two copies of a chunk that was changed meanwhile must not mix
        with self._lock:
            partial = self._begun(chunk["generation"])
            index = chunk["index"]
            if partial.held.get(index) == digest:
                return
            if partial.is_linked():
                self._discard(partial)
                raise FileRefusal("unknown_transfer", "what is here has another name by now")
            partial.write(index, digest, data)
            descriptor = partial.duplicate()  # it may be closed meanwhile
        self._write_back(partial, descriptor, index)

    def _write_back(self, partial: Partial, descriptor: int, index: int) -> None:
        try:
            write_back(descriptor, partial.offset(index), partial.length(index))
        except OSError:
            with self._lock:
                self._discard(partial)
            raise
        finally:
            os.close(descriptor)

    def _open_partial(self) -> Partial:
        if self._partial is None:
            raise FileRefusal("unknown_transfer", "not begun, or not since this node started")
        return self._partial

    def finish(
        self, sha256: str, chunks: str, mode: int, keep: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Publish it under its final name; returns the result, the same one when asked again.

        `chunks` is the sha256 of all chunks' sha256 in order: what is here must be that very file.
        `keep` makes the result last before the last trace of the way to it goes.
        """
        self._touched = time.monotonic()
        with self._lock:
            if self._result is None:
                partial = self._open_partial()
                self._verify(partial, chunks)
                self._seal(partial, mode)
                self._result = self._publish(partial, sha256)
                keep(self._result)
                partial.discard()
                self._leave()
            return self._result

    def _verify(self, partial: Partial, chunks: str) -> None:
        """Refuse what is not whole, or of which a chunk is another file's."""
        missing = partial.missing()
        if missing:
            some = ", ".join(map(str, missing[:10]))
            raise FileRefusal("checksum_mismatch", f"{len(missing)} chunks are missing: {some}")
        held = hashlib.sha256(b"".join(digest for _, digest in sorted(partial.held.items())))
        if held.hexdigest() != chunks:
            raise FileRefusal("checksum_mismatch", "a chunk of it is not of this file")

    def _seal(self, partial: Partial, mode: int) -> None:
        try:
            sealed = partial.seal(mode)
        except OSError:
            self._discard(partial)
            raise
        there = standing(self._folder, partial.part_name)
        if there is None or not os.path.samestat(sealed, there):
            self._discard(partial)
            raise FileRefusal("internal", "another file is in the place of what was received")
        if self._is_over:
            raise FileRefusal("cancelled", "it was abandoned while it was written to the disk")

    def _discard(self, partial: Partial) -> None:
        """Remove what is open: after a failed sync, a later one may succeed with bytes lost."""
        if partial is self._partial:
            partial.discard()
            self._leave()

    def _publish(self, partial: Partial, sha256: str) -> dict[str, Any]:
        root, _, below = self._spec["path"].partition(":")
        parent, slash, leaf = below.rpartition("/")
        if_exists = self._spec["if_exists"]
        name, skipped = publish(self._folder, partial.part_name, leaf, if_exists, sha256)
        path = f"{root}:{parent}{slash}{name}"
        self._settle(partial, path)
        return {"path": path, "bytes": partial.size, "sha256": sha256, "skipped": skipped}

    def _settle(self, partial: Partial, path: str) -> None:
        """Have its new name on the disk too; where that fails it is there, and is left there."""
        try:
            os.fsync(self._folder)
        except OSError as error:
            self._discard(partial)
            reason = f"it is there, whole, but may be lost with the power: {error.strerror}"
            raise FileRefusal("internal", f"{path}: {reason}") from error

    def abandon(self, remove: Callable[[], None]) -> None:
        """End it, unless it is published; `remove` is to remove what there is on the disk."""
        self._is_over = True  # before the lock: what is being synced now is not published after
        with self._lock:
            if self._partial is not None:
                self._partial.discard()
            self._leave()
            remove()

    def close(self) -> None:
        """End it, leaving on the disk what there is, to be resumed by another."""
        with self._lock:
            self._is_over = True
            self._leave()

    def _leave(self) -> None:
        if self._partial is not None:
            self._partial.close()
        self._partial = None
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("path", "size", "chunk_bytes", "if_exists"))
