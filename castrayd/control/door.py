"""The listening socket, which keeps any one user from taking all connections.

Everybody may connect, so that a refusal can be told; but a connection holds a descriptor, and a
daemon without descriptors can neither probe nor spawn. `socket.claim` makes it.
"""

import os
import socket
from collections import defaultdict
from typing import Any, Final

from castrayd.control.access import peer_of

__all__ = ("Door",)

OURS: Final = 256
"""Connections at once of root and of our own user, each."""
OTHERS: Final = 32
"""Connections at once of any other user."""


class Door(socket.socket):
    """Accepts connections, and closes at once what is one too many for its user."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: defaultdict[int, list[socket.socket]] = defaultdict(list)

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may stay. Raises BlockingIOError when there is none."""
        while True:
            connection, address = super().accept()
            try:
                if self._has_room(connection):
                    return connection, address
            except OSError:  # gone again before it could be asked who it is
                pass
            connection.close()

    def _has_room(self, connection: socket.socket) -> bool:
        uid = peer_of(connection).uid
        mine = [one for one in self._open[uid] if one.fileno() >= 0]
        limit = OURS if uid in {0, os.geteuid()} else OTHERS
        if len(mine) < limit:
            mine.append(connection)
            self._open[uid] = mine
            return True
        self._open[uid] = mine
        return False
