"""Giving a received file its final name, at once and whole, and reading what stands there."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from castrayd.driver.caster.roots import MAX_NAME_BYTES, FileRefusal

__all__ = ("HASH_BYTES", "is_published", "publish", "standing", "standing_sha256")

HASH_BYTES = 1024 * 1024
_MOST_NAMES = 1000
"""`keep_both` gives up after so many: somebody sends the same in a loop."""


def standing(folder: int, leaf: str) -> os.stat_result | None:
    """Look at what has the name already, no link followed; None when nothing has."""
    try:
        return os.stat(leaf, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def standing_sha256(folder: int, leaf: str) -> str:
    """Hash the regular file of a name; raises OSError."""
    found = hashlib.sha256()
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(leaf, flags, dir_fd=folder), "rb", buffering=0) as file:
        while data := file.read(HASH_BYTES):
            found.update(data)
    return found.hexdigest()


def publish(folder: int, part: str, leaf: str, if_exists: str, sha256: str) -> tuple[str, bool]:
    """Give the file `part` its final name; raises FileRefusal `exists`, OSError.

    Returns the name, and whether the same file, of that sha256, has come by it meanwhile: another
    node with this root may have received it too. Idempotent: a link that was made before a crash
    is recognised by its inode, so `part` stays until the end of it is on the disk.
    """
    if if_exists == "replace":
        _replace(folder, part, leaf)
        return leaf, False
    for name in _numbered(leaf) if if_exists == "keep_both" else (leaf,):
        if _linked(folder, part, name):
            return name, False
        if name == leaf and _is_same(folder, part, leaf, sha256):
            return name, True
    raise FileRefusal("exists", f"{leaf}: a file of that name has come meanwhile")


def is_published(folder: int, part: os.stat_result, leaf: str) -> bool:
    """Whether a file has a name already that `publish` gives, of before a crash."""
    for name in _numbered(leaf):
        there = standing(folder, name)
        if there is None or os.path.samestat(part, there):
            return there is not None
    return False


def _replace(folder: int, part: str, leaf: str) -> None:
    there = standing(folder, leaf)
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise FileRefusal("exists", f"{leaf}: not a regular file, and so not replaced")
    os.rename(part, leaf, src_dir_fd=folder, dst_dir_fd=folder)


def _linked(folder: int, part: str, name: str) -> bool:
    """Link without clobber; False when something else has the name."""
    try:
        os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        ours = os.stat(part, dir_fd=folder, follow_symlinks=False)
        there = standing(folder, name)
        return there is not None and os.path.samestat(ours, there)
    return True


def _is_same(folder: int, part: str, leaf: str, sha256: str) -> bool:
    ours, there = standing(folder, part), standing(folder, leaf)
    if ours is None or there is None or not stat.S_ISREG(there.st_mode):
        return False
    try:
        return ours.st_size == there.st_size and standing_sha256(folder, leaf) == sha256
    except OSError:  # it is not ours to read
        return False


def _numbered(leaf: str) -> Iterator[str]:
    yield leaf
    stem, extension = os.path.splitext(leaf)
    for number in range(1, _MOST_NAMES):
        tail = f" ({number}){extension}"
        yield _cut(stem, MAX_NAME_BYTES - len(os.fsencode(tail))) + tail


def _cut(text: str, most_bytes: int) -> str:
    while len(os.fsencode(text)) > most_bytes:
        text = text[:-1]
    return text
