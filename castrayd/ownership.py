"""Files and folders that are made for whoever owns the folder around them.

A daemon that root has started by hand must not shut out the service, which has another user.
"""

import os
from pathlib import Path

__all__ = ("make_file", "make_folder")


def make_file(path: Path) -> None:
    """Make an empty file where there is none. Raises OSError."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        _give(path, made)
    finally:
        os.close(made)


def make_folder(path: Path) -> None:
    """Make a folder where there is none, and those around it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    made = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(path, made)
    finally:
        os.close(made)


def _give(path: Path, made: int) -> None:
    owner = path.parent.stat()
    if os.geteuid() == 0 != owner.st_uid:
        os.fchown(made, owner.st_uid, owner.st_gid)
