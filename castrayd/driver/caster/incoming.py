"""All files on their way in to one casting node. Plain data in, plain data out, nothing raised."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from castrayd.driver.caster.finished import Finished, Opened
from castrayd.driver.caster.partial import discard
from castrayd.driver.caster.receipt import Receipt, Reserve
from castrayd.driver.caster.remote import put
from castrayd.driver.caster.roots import FileRefusal, Roots, answered

__all__ = ("FETCH_S", "Incoming", "default_reserve")

_IDLE_S = 3600.0
"""A receipt of which nobody has asked anything for so long lets go of its files."""
FETCH_S = 25.0
"""A chunk is fetched within it: longer than a pull's retry (10 s), shorter than a sender waits."""
_MIN_RESERVE = 1024**3
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_IF_EXISTS = ("refuse", "replace", "keep_both")


def default_reserve(disk: os.statvfs_result) -> int:
    """Return what stays free, in bytes: Ray makes no objects on a node whose disk is 95 % full."""
    return max(_MIN_RESERVE, disk.f_blocks * disk.f_frsize * 6 // 100)


class Incoming:
    """The receipts of one casting node; for use from any thread.

    What is not finished is resumed by a later process when the sender begins it again. Errors are
    `path_forbidden`, `disk_full`, `exists`, `checksum_mismatch`, `object_lost`,
    `unknown_transfer` (to be begun again) and `internal`.
    """

    def __init__(
        self, roots: Roots, state_dir: str, reserve: Reserve | int = default_reserve
    ) -> None:
        """Remember in `state_dir`, which is there. Raises OSError."""
        self._roots = roots
        self._reserve: Reserve = _constant(reserve) if isinstance(reserve, int) else reserve
        self._node = hashlib.sha256(os.fsencode(os.path.abspath(state_dir))).hexdigest()[:8]
        self._finished = Finished(state_dir)
        self._opened = Opened(state_dir)
        self._lock = threading.Lock()
        self._receipts: dict[str, Receipt] = {}

    def begin(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Begin or resume `{"id", "path", "size", "chunk_bytes", "if_exists", "differs"?}`.

        Returns `{"have": [[index, sha256], ...], "generation"}`: what is verified and written
        already, and what chunks come with until it is begun again. With `there` when a file of
        that size has the name: its sha256, and nothing was made. `{"done": result}` when it was
        finished before. A sender whose file is another one than that begins again, and names the
        sha256 that it was told in `differs`.
        """
        return answered(str(spec.get("path")), lambda: self._begin(spec))

    def _begin(self, spec: dict[str, Any]) -> dict[str, Any]:
        _check(spec)
        id_ = spec["id"]
        while True:
            done = self._finished.get(id_)
            if done and done["sha256"] == spec.get("differs"):  # the source is another file since
                self._finished.drop(id_)
            elif done:
                if self._opened.get(id_) is not None:  # a crash came before all was tidied
                    self._abandon(id_)
                return {"done": done}
            receipt = self._made(id_)
            answer = receipt.begin(spec)
            if answer is not None:
                return answer
            self._drop(id_, receipt)  # it was let go of between the two

    def _made(self, transfer: str) -> Receipt:
        with self._lock:
            receipt = self._receipts.get(transfer)
            if receipt is None:
                note = partial(self._opened.put, transfer)
                stem = self._stem(transfer)
                receipt = self._receipts[transfer] = Receipt(stem, self._roots, self._reserve, note)
            return receipt

    def _stem(self, transfer: str) -> str:
        """Name its files in progress, apart from another node's that has the same root."""
        return f"{transfer}.{self._node}"

    def _drop(self, transfer: str, receipt: Receipt) -> None:
        with self._lock:
            if self._receipts.get(transfer) is receipt:
                del self._receipts[transfer]

    def take(
        self,
        transfer: str,
        chunk: dict[str, Any],
        data: Any,
        again: bool = False,  # noqa: FBT001, FBT002
    ) -> dict[str, Any]:
        """Verify and write a chunk, any buffer; returns `{"ok": bytes}`. No view of it is kept.

        `chunk` is `{"index", "sha256", "generation"}`: one of a call of before the file was begun
        last is refused. `again`: it will be sent on, and so is verified even if it was here before.
        """

        def work() -> dict[str, Any]:
            with memoryview(data) as view:
                return {"ok": self._receipt(transfer).take(chunk, view, again=again)}

        return answered(f"chunk {chunk['index']}", work)

    def fetch(
        self,
        transfer: str,
        chunk: dict[str, Any],
        refs: list[Any],
        relay: bool,  # noqa: FBT001
    ) -> dict[str, Any]:
        """Fetch a chunk from Ray and take it: all of the remote method `file_take`.

        The answer tells the bytes that have come, as `received`, used or not. With `relay` the
        chunk is put again once it is verified, and the answer has its `refs`: none where this
        node's object store has no room.
        """
        import ray  # noqa: PLC0415

        try:
            (data,) = ray.get(refs, timeout=FETCH_S)
        except ray.exceptions.RayError as error:
            message = f"chunk {chunk['index']}: {type(error).__name__}: {error}"
            return FileRefusal("object_lost", message[:500]).document()
        answer = {**self.take(transfer, chunk, data, relay), "received": len(data)}
        if relay and "ok" in answer:
            again = put(data)
            answer["refs"] = [] if again is None else [again]
        return answer

    def finish(
        self, transfer: str, sha256: str, chunks: str, mode: int | None = None
    ) -> dict[str, Any]:
        """Publish a file whose chunks are all here.

        Returns `{"path", "bytes", "sha256", "skipped"}`; skipped it is where the same file has
        come under the name meanwhile.
        `chunks` is the sha256 of all chunks' sha256 in order, and must be that of what is here.
        `mode` is that of the source, 0644 without; the umask is heeded.
        """
        return answered(transfer, lambda: self._finish(transfer, sha256, chunks, mode))

    def _finish(self, transfer: str, sha256: str, chunks: str, mode: int | None) -> dict[str, Any]:
        done = self._finished.get(transfer)
        if done and done["sha256"] == sha256:
            return done
        permissions = (0o644 if mode is None else mode & 0o777) & ~_umask()
        result = self._receipt(transfer).finish(
            sha256, chunks, permissions, lambda result: self._keep(transfer, result)
        )
        self._forget(transfer)
        return result

    def _keep(self, transfer: str, result: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the file is there: that it is forgotten is no failure
            self._finished.put(transfer, result)

    def abandon(self, transfer: str) -> dict[str, Any]:
        """Remove what there is of an unfinished file, also an earlier process's; idempotent.

        Returns `{"done": result}` where it is finished: that is not undone.
        """
        return answered(transfer, lambda: self._abandon(transfer))

    def _abandon(self, transfer: str) -> dict[str, Any]:
        if not _ID.fullmatch(transfer):
            return {}
        receipt = self._made(transfer)
        receipt.abandon(lambda: self._remove(transfer))
        self._drop(transfer, receipt)
        done = self._finished.get(transfer)  # a finish that was under way may have come first
        return {"done": done} if done else {}

    def _remove(self, transfer: str) -> None:
        path = self._opened.get(transfer)
        if path is not None:
            self._discard(transfer, path)
            self._opened.drop(transfer)

    def _discard(self, transfer: str, path: str) -> None:
        try:
            folder, _ = self._roots.open_parent(path, make=False)
        except FileRefusal:
            return  # its folder, or its root, is gone
        try:
            discard(folder, self._stem(transfer))
        finally:
            os.close(folder)

    def sweep(self, max_age_s: float) -> list[str]:
        """Abandon what nobody has gone on with for so long; returns the ids.

        What is only idle is closed, and resumed when it is begun again.
        """
        for id_, idle in list(self._receipts.items()):
            if idle.idle_s() >= _IDLE_S:
                idle.close()
                self._drop(id_, idle)
        swept = []
        for id_ in self._opened.older(max_age_s):
            receipt = self._receipts.get(id_)
            if receipt is None or receipt.idle_s() >= max_age_s:
                self.abandon(id_)
                swept.append(id_)
        return swept

    def close(self) -> None:
        """Let go of all, leaving on the disk what can be resumed."""
        for receipt in list(self._receipts.values()):
            receipt.close()
        self._receipts.clear()

    def _receipt(self, transfer: str) -> Receipt:
        receipt = self._receipts.get(transfer)
        if receipt is None:
            raise FileRefusal("unknown_transfer", "not begun, or not since this node started")
        return receipt

    def _forget(self, transfer: str) -> None:
        self._opened.drop(transfer)
        with self._lock:
            self._receipts.pop(transfer, None)


def _constant(reserve: int) -> Callable[[os.statvfs_result], int]:
    return lambda _disk: reserve


def _check(spec: dict[str, Any]) -> None:
    if not _ID.fullmatch(spec["id"]):
        raise FileRefusal("path_forbidden", f"{spec['id']!r:.120} is no transfer's id")
    if spec["size"] < 0 or spec["chunk_bytes"] < 1 or spec["if_exists"] not in _IF_EXISTS:
        raise FileRefusal("internal", "size, chunk_bytes or if_exists make no sense")


def _umask() -> int:
    """Read this process's umask; os.umask would change it under other threads. See proc(5)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        line = next((line for line in file if line.startswith("Umask:")), "Umask: 022")
    return int(line.split()[1], 8)
