"""A lock that dies with its holder: a file beside what is held, under flock(2)."""

import fcntl
import os
from pathlib import Path

from castrayd.errors import AlreadyRunningError

__all__ = ("hold", "make")


def hold(path: Path) -> int:
    """Hold what lies at `path` alone; returns a descriptor, and to close it is to let go.

    The lock's file stays for ever: to remove it would let two hold a lock of that name. Raises
    `AlreadyRunningError` where another process holds it, and OSError.
    """
    file = path.with_name(f"{path.name}.lock")
    make(file)
    lock = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyRunningError(str(path)) from None
    return lock


def make(path: Path) -> None:
    """Make an empty file where there is none, for its folder's owner: raises OSError.

    A daemon that root has started by hand must not shut out the service, which has another user.
    """
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        owner = path.parent.stat()
        if os.geteuid() == 0 != owner.st_uid:
            os.fchown(made, owner.st_uid, owner.st_gid)
    finally:
        os.close(made)
