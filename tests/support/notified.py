"""The other end of NOTIFY_SOCKET: what a service manager hears."""

import socket

__all__ = ("Listener",)


class Listener:
    """A datagram socket at an address, a path or an abstract name."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def datagrams(self) -> list[str]:
        """What has come since it was asked last, one text a datagram."""
        got = []
        while True:
            try:
                got.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return got

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()
