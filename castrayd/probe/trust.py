"""Whom discovery believes: root and our own user, in files and in processes.

The Ray token goes to what is found, so a stranger must not be able to name a place.
"""

import os
import stat
from typing import Final

__all__ = ("DistrustedError", "is_trusted", "read_trusted")

TEXT_BYTES: Final = 64 * 1024
"""Of a file of addresses; what is longer is some other file."""


class DistrustedError(Exception):
    """Raised for a file that is not to be believed, or cannot be read; says why."""


def is_trusted(uid: int) -> bool:
    """Whether what this user owns is believed."""
    return uid in {0, os.geteuid()}


def read_trusted(path: str, *, follow: bool) -> str | None:
    """Read a small text file; None where there is none. Raises `DistrustedError`.

    `follow` allows a symbolic link, whose target is then what must be trusted.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DistrustedError(f"{path}: {error.strerror}") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DistrustedError(f"{path} is no regular file")
        if not is_trusted(found.st_uid):
            raise DistrustedError(f"{path} belongs to uid {found.st_uid}")
        if found.st_mode & stat.S_IWOTH:
            raise DistrustedError(f"{path} can be written to by everybody")
        return file.read(TEXT_BYTES).decode(errors="replace")
