"""Named roots: the only folders in which a casting node reads and writes files.

A file is addressed as text, `root:rel/path`. The path is walked one component at a time below a
descriptor of the root, and symbolic links are never followed, so that nothing leads out of it.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from collections.abc import Callable
from typing import Any

__all__ = ("TEMP_PREFIX", "FileRefusal", "Roots", "answered", "refusal_of")

TEMP_PREFIX = ".castray-"
"""Names of files in progress begin with it; nobody may address them."""
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not block
_TYPES = {
    errno.ENOENT: "not_found",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.ELOOP: "path_forbidden",
    errno.ENOTDIR: "path_forbidden",
    errno.EISDIR: "path_forbidden",
    errno.ENXIO: "path_forbidden",  # a socket, which cannot be opened
    errno.ENAMETOOLONG: "path_forbidden",
    errno.EACCES: "path_forbidden",
    errno.EPERM: "path_forbidden",
    errno.EROFS: "path_forbidden",
    errno.EEXIST: "exists",
}


class FileRefusal(Exception):  # noqa: N818  it is no error of ours
    """Raised to answer a call with a classified error."""

    def __init__(self, type: str, message: str) -> None:  # noqa: A002
        super().__init__(type, message)
        self.type = type
        self.message = message

    def document(self) -> dict[str, Any]:
        """Return the answer that tells it."""
        return {"error": {"type": self.type, "message": self.message}}


def refusal_of(error: OSError, what: str) -> FileRefusal:
    """Classify what the operating system said about `what`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return FileRefusal(_TYPES.get(error.errno or 0, "internal"), f"{what}: {reason}")


def answered(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do it, and return its answer or the error that came of it: nothing of ours is raised."""
    try:
        return work()
    except FileRefusal as refusal:
        return refusal.document()
    except OSError as error:
        return refusal_of(error, what).document()


class Roots:
    """The roots of one casting node: `{"name": {"path": "/abs", "read": True, "write": True}}`.

    One that says nothing of it may be read, and not written. Every method raises FileRefusal:
    `path_forbidden`, `not_found`, `disk_full` or `internal`.
    """

    def __init__(self, roots: dict[str, dict[str, Any]]) -> None:
        self._roots = roots

    def open_file(self, text: str) -> int:
        """Open a regular file for reading; returns a descriptor, which the caller closes."""
        folder, leaf = self._parent(text, "read", make=False)
        try:
            descriptor = os.open(leaf, _FILE, dir_fd=folder)
        except OSError as error:
            raise refusal_of(error, text) from error
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileRefusal("path_forbidden", f"{text}: not a regular file")
        return descriptor

    def open_parent(self, text: str, *, make: bool = True) -> tuple[int, str]:
        """Open the folder that a file is to be written in, making what is missing of it.

        Returns its descriptor, which the caller closes, and the file's own name.
        """
        return self._parent(text, "write", make=make)

    def space(self, text: str) -> os.statvfs_result:
        """Look at the file system that a file would be on, whose folder may not be there yet."""
        root, names = self._split(text, "write")
        for depth in range(len(names) - 1, -1, -1):
            try:
                folder = self._walk(root, names[:depth], text, make=False)
            except FileRefusal as refusal:
                if refusal.type != "not_found" or depth == 0:
                    raise
                continue
            try:
                return os.statvfs(folder)
            finally:
                os.close(folder)
        raise FileRefusal("path_forbidden", f"{text}: names no file")

    def listing(self, text: str, limit: int) -> list[dict[str, Any]]:
        """Return the first `limit` entries of a folder by name; sizes in bytes, mtimes in epoch s.

        Files in progress are not shown. `root:` is the root itself.
        """
        root, names = self._split(text, "read")
        folder = self._walk(root, names, text, make=False)
        try:
            shown = (name for name in os.listdir(folder) if not name.startswith(TEMP_PREFIX))
            found = [_entry(folder, name) for name in heapq.nsmallest(limit, shown)]
        except OSError as error:
            raise refusal_of(error, text) from error
        finally:
            os.close(folder)
        return [entry for entry in found if entry]

    def _parent(self, text: str, right: str, *, make: bool) -> tuple[int, str]:
        root, names = self._split(text, right)
        if not names:
            raise FileRefusal("path_forbidden", f"{text}: names no file")
        return self._walk(root, names[:-1], text, make=make), names[-1]

    def _split(self, text: str, right: str) -> tuple[str, list[str]]:
        """Return the folder of a root with that right, and the names below it, each checked."""
        name, colon, path = text.partition(":")
        root = self._roots.get(name)
        if not colon or root is None:
            known = ", ".join(sorted(self._roots))
            raise FileRefusal("path_forbidden", f"{text!r:.200} names no root of: {known}")
        if not root.get(right, right == "read"):
            raise FileRefusal("path_forbidden", f"nobody may {right} in root {name}")
        names = path.split("/") if path else []
        reason = _why_not(path, names)
        if reason:
            raise FileRefusal("path_forbidden", f"{text!r:.200}: {reason}")
        return str(root["path"]), names

    def _walk(self, root: str, names: list[str], text: str, *, make: bool) -> int:
        try:
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for name in names:
                folder = _step(folder, name, make=make)
        except OSError as error:
            raise refusal_of(error, text) from error
        return folder


def _step(folder: int, name: str, *, make: bool) -> int:
    """Go one folder down; closes the descriptor that it came with, whatever happens."""
    try:
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):  # another transfer may have made it
            os.mkdir(name, 0o755, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)
    finally:
        os.close(folder)


def _why_not(path: str, names: list[str]) -> str | None:
    """Say why a path below a root is refused; None when it is not."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "no encodable text"
    if len(encoded) > MAX_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MAX_NAME_BYTES:
        return f"longer than {MAX_PATH_BYTES} bytes, or a name in it than {MAX_NAME_BYTES}"
    if "\0" in path:
        return "has a NUL"
    if any(name in {"", ".", ".."} for name in names):
        return "must be relative, without empty components, '.' or '..'"
    if any(name.startswith(TEMP_PREFIX) for name in names):
        return f"names that begin with {TEMP_PREFIX} are ours"
    return None


def _entry(folder: int, name: str) -> dict[str, Any] | None:
    """Describe an entry; None when it has gone meanwhile."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    regular, directory = stat.S_ISREG(facts.st_mode), stat.S_ISDIR(facts.st_mode)
    return {
        "name": os.fsencode(name).decode(errors="backslashreplace"),
        "kind": "file" if regular else "dir" if directory else "other",
        "size": facts.st_size,
        "mtime": facts.st_mtime,
    }
