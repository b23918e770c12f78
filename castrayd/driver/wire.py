"""The child's end of the wire: frames of JSON over a socket, each with its length before it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

__all__ = ("PROTOCOL", "Wire")

PROTOCOL = 1
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A node map of ten thousand nodes is about a tenth of this."""

_LENGTH = struct.Struct(">I")


class Wire:
    """Blocking; read by one thread, written by any."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._write_lock = threading.Lock()

    def read(self) -> dict[str, Any] | None:
        """Return the next frame; None at the end of the wire, which is the daemon's end."""
        head = self._read_exactly(_LENGTH.size)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > MAX_FRAME_BYTES:
            return None
        body = self._read_exactly(length)
        return None if body is None else json.loads(body)

    def _read_exactly(self, count: int) -> bytes | None:
        parts = []
        while count:
            try:
                part = self._socket.recv(min(count, 1 << 20))
            except OSError:
                return None
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def write(self, frame: dict[str, Any]) -> None:
        """Send one frame; a daemon that is gone is noticed by `read`.

        Raises what `json.dumps` does, and ValueError for more than the daemon would take: that
        would be the end of the session.
        """
        body = json.dumps(frame, separators=(",", ":")).encode()
        if len(body) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(body)} bytes")
        try:
            with self._write_lock:
                self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError:
            return
