"""The journal's own protocol: every key of a line is a field that `journalctl` finds it by.

`journalctl CASTRAY_ERROR_TYPE=tcp_refused`, and so on for every key of the log: in capitals, with
`_` for what is neither letter nor digit, below one prefix, so that none can be taken for a field
of somebody else. One datagram is one line (systemd's JOURNAL_NATIVE_PROTOCOL). `logs` alone uses
it; `lines` writes what is made here, in its thread.
"""

import array
import errno
import fcntl
import json
import os
import re
import socket
import struct
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO

__all__ = (
    "NAMESPACE",
    "SOCKET",
    "STACK",
    "Journal",
    "entry",
    "field_name",
    "is_journal",
    "message_id",
)

SOCKET: Final = Path("/run/systemd/journal/socket")

NAMESPACE: Final = uuid.UUID("d52ee599-d536-4904-a2eb-493350c78a5a")
"""Never to change: the MESSAGE_ID of an event is the UUID 5 of its name in here."""

PATIENCE_S: Final = 0.2
"""How long a line waits for room in the journal's queue; a burst may well fill it."""

STACK: Final = "exception.stacktrace"
"""The key of a stack: the one that is shown to a person besides the message."""

PREFIX: Final = "CASTRAY_"
NAME_CHARS: Final = 64
"""The journal ignores a field whose name is longer."""

NAMES: Final = 1024
"""So many names are remembered; there are far fewer."""

_PRIORITIES: Final[Mapping[str, str]] = MappingProxyType(
    {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
)


def is_journal(stream: TextIO | None, environ: Mapping[str, str], path: Path = SOCKET) -> bool:
    """Whether a stream ends in the journal, and the journal can be reached from here.

    systemd names the stream that it gave us. A child of ours, or of a shell, inherits the variable
    and may well write elsewhere, so it has to be this very stream.
    """
    try:
        found = os.fstat(stream.fileno()) if stream else None
    except (OSError, ValueError):
        return False  # closed, or none of the system's
    same = found and environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return bool(same) and os.access(path, os.W_OK)


class Journal:
    """Where entries go: a datagram each. Nothing is kept open that a restart of it could break."""

    def __init__(self, path: Path = SOCKET, patience_s: float = PATIENCE_S) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        patience = struct.pack("ll", *divmod(int(patience_s * 1e6), 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)

    def write(self, line: bytes) -> None:
        """Send an entry. Raises OSError when the journal is gone, or takes nothing."""
        try:
            self._socket.sendto(line, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._send_file(line)

    def flush(self) -> None:
        """Do nothing: a datagram is sent or lost."""

    def _send_file(self, line: bytes) -> None:
        """Send what no datagram holds as a file in memory, sealed: the journal demands that."""
        with os.fdopen(_memfd(), "wb") as file:
            file.write(line)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            files = array.array("i", [file.fileno()])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
            self._socket.sendmsg([], rights, 0, self._path)


_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def _memfd() -> int:
    return os.memfd_create("castrayd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def entry(event: Mapping[str, Any]) -> bytes:
    """Return a line as the journal reads it; `event` has `level`, `message` and dotted keys."""
    lines: list[str] = []
    blocks: list[bytes] = []
    for name, text in _fields(event):
        if "\n" in text:
            blocks.append(_block(name, _encoded(text)))
        else:
            lines.append(f"{name}={text}\n")
    return _encoded("".join(lines)) + b"".join(blocks)


def _fields(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", _message(event)
    yield "PRIORITY", _PRIORITIES[event["level"]]
    yield "SYSLOG_IDENTIFIER", "castrayd"
    if "event.name" in event:
        yield "MESSAGE_ID", message_id(event["event.name"])
    for key, value in event.items():
        if key != "message" and value is not None:
            yield field_name(key), _text(value)


def _message(event: Mapping[str, Any]) -> str:
    """A person who reads the journal sees the message alone, so a stack belongs to it."""
    return "\n".join(_text(event[key]) for key in ("message", STACK) if key in event)


def _block(name: str, data: bytes) -> bytes:
    """A value with line ends in it goes by its length, so that it cannot make other fields."""
    return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # bytes of the environment that are no text


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str) if isinstance(value, _DOCUMENTS) else str(value)


_DOCUMENTS: Final = (bool, dict, list, tuple)
"""What Python would write in a way of its own."""


@lru_cache(NAMES)
def field_name(key: str) -> str:
    """Return the field of a key: `castray.attempt.id` and `error.type` alike get our prefix."""
    own = key.removeprefix("castray.").upper()
    return PREFIX + re.sub("[^A-Z0-9_]", "_", own)[: NAME_CHARS - len(PREFIX)]


@lru_cache(NAMES)
def message_id(event_name: str) -> str:
    """Return the MESSAGE_ID of every line of an event: the same on every host, in every version."""
    return uuid.uuid5(NAMESPACE, event_name).hex
