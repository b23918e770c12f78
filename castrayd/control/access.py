"""Who may do what: decided by the kernel's word about the peer, not by the socket's mode."""

import grp
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from castrayd.errors import SettingsError, SettingsProblem

__all__ = ("AccessPolicy", "Peer", "peer_of")

_SO_PEERGROUPS: Final = 59
"""Linux 4.13 and later; not named by Python's socket module."""
_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection."""

    pid: int
    uid: int
    gids: frozenset[int]


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Root may write, our own uid too unless told otherwise, groups as told; nobody else."""

    write_groups: frozenset[int] = frozenset()
    read_groups: frozenset[int] = frozenset()
    own_uid_writes: bool = True

    @classmethod
    def of(
        cls, write_groups: tuple[str, ...], read_groups: tuple[str, ...], *, own_uid_writes: bool
    ) -> "AccessPolicy":
        """Look the groups up by name. Raises `SettingsError` with all that do not exist."""
        problems: list[SettingsProblem] = []
        writers = _gids("control.write_groups", write_groups, problems)
        readers = _gids("control.read_groups", read_groups, problems)
        if problems:
            raise SettingsError("settings", tuple(problems))
        return cls(writers, readers, own_uid_writes)

    def may_write(self, peer: Peer) -> bool:
        """Whether the peer may change anything."""
        own = peer.uid == os.geteuid() and self.own_uid_writes
        return peer.uid == 0 or own or bool(peer.gids & self.write_groups)

    def may_reload(self, peer: Peer) -> bool:
        """Whether the peer may have the settings read again: our own uid could send a SIGHUP."""
        return peer.uid == os.geteuid() or self.may_write(peer)

    def may_aim(self, peer: Peer) -> bool:
        """Whether the peer may name an address, which is shown the token: who can read it may."""
        return peer.uid in {0, os.geteuid()}

    def may_read(self, peer: Peer) -> bool:
        """Whether the peer may look."""
        own = peer.uid == os.geteuid()
        return own or bool(peer.gids & self.read_groups) or self.may_write(peer)


def _gids(key: str, names: tuple[str, ...], problems: list[SettingsProblem]) -> frozenset[int]:
    gids = set()
    for name in names:
        try:
            gids.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            problems.append(SettingsProblem(key, f"no such group: {name!r}"))
    return frozenset(gids)


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who connected; as of then, a later setuid changes nothing."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid, uid, frozenset((gid, *_groups(connection))))


def _groups(connection: socket.socket) -> tuple[int, ...]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return ()  # more groups than Python can take: fewer rights are the safe answer
    return struct.unpack(f"{len(raw) // 4}I", raw)


_GROUPS_BYTES: Final = 1024
"""The most that Python's getsockopt takes: 256 groups."""
