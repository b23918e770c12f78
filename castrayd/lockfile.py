"""A lock that dies with its holder: a file beside what is held, under flock(2)."""

import fcntl
import os
from pathlib import Path

from castrayd.errors import AlreadyRunningError
from castrayd.ownership import make_file

__all__ = ("hold",)


def hold(path: Path) -> int:
    """Hold what lies at `path` alone; returns a descriptor, and to close it is to let go.

    The lock's file stays for ever: to remove it would let two hold a lock of that name. Raises
    `AlreadyRunningError` where another process holds it, and OSError.
    """
    file = path.with_name(f"{path.name}.lock")
    make_file(file)
    lock = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyRunningError(str(path)) from None
    return lock
