"""Whom discovery believes: root and our own user, in files, processes and ports.

The Ray token goes to what is found, so a stranger must not be able to name a place, nor to take
one over.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final

__all__ = ("DistrustedError", "is_trusted", "listener_uids", "read_trusted")

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
        if found.st_mode & stat.S_IWGRP and found.st_gid not in {0, os.getegid()}:
            raise DistrustedError(f"{path} can be written to by the group {found.st_gid}")
        return file.read(TEXT_BYTES).decode(errors="replace")


def listener_uids(port: int, proc: str = "/proc") -> set[int]:
    """Tell who listens on a TCP port of this host; source: proc(5), /proc/net/tcp. Some ms."""
    return {int(words[_UID]) for words in _sockets(proc) if _listens(words, port)}


def _sockets(proc: str) -> Iterator[list[str]]:
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{name}", encoding="ascii") as table:  # noqa: PTH123
                yield from (line.split() for line in table.readlines()[1:])
        except OSError:
            continue  # no IPv6 here


def _listens(words: list[str], port: int) -> bool:
    return words[_STATE] == _LISTEN and int(words[_LOCAL].rpartition(":")[2], 16) == port


_LOCAL, _STATE, _UID, _LISTEN = 1, 3, 7, "0A"
