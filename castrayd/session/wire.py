"""The daemon's end of the wire to a session: frames of JSON, each with its length before it."""

import asyncio
import json
import socket
import struct
from typing import Any, Final

__all__ = ("PROTOCOL", "Wire", "WireError")

PROTOCOL: Final = 1
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024

_LENGTH: Final = struct.Struct(">I")


class WireError(Exception):
    """Raised when what comes over the wire is no frame."""


class Wire:
    """Not for reading by two tasks at once; a write is one frame and never waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Wire":
        """Take a connected socket over."""
        return cls(*await asyncio.open_connection(sock=sock))

    async def read(self) -> dict[str, Any] | None:
        """Return the next frame; None at the end of the wire. Raises `WireError`."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME_BYTES:
                message = f"a frame of {length} bytes"
                raise WireError(message)
            frame = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except ValueError as error:
            raise WireError(str(error)) from error
        if not isinstance(frame, dict):
            message = "a frame that is no object"
            raise WireError(message)
        return frame

    def write(self, frame: dict[str, Any]) -> None:
        """Send one frame; requests are small, so the transport's buffer takes them at once."""
        body = json.dumps(frame, separators=(",", ":")).encode()
        self._writer.write(_LENGTH.pack(len(body)) + body)

    def close(self) -> None:
        """Close the socket at once; the child takes that as its end."""
        self._writer.transport.abort()
