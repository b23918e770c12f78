"""A small HTTP client for the control socket: one request a connection, the standard library alone.

`castrayctl` alone uses it. castrayctl must answer as quickly as a shell expects; http.client and
aiohttp cost more to import than the request takes.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from math import inf
from time import monotonic, sleep
from typing import Any, BinaryIO, Final

__all__ = ("ApiRefusedError", "Client", "NoDaemonError", "quoted")

ANSWER_S: Final = 30.0
"""Longer than the daemon takes for anything that it does before it answers."""
_AGAIN_S: Final = 0.02
REFUSED: Final = 400
"""Statuses from here on are refusals."""


class NoDaemonError(Exception):
    """Raised when nobody answers at the socket, or hangs up before the answer."""


class ApiRefusedError(Exception):
    """Raised when the daemon refuses a request."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(status, error)
        self.status = status
        self.type = str(error.get("type", "internal"))
        self.message = str(error.get("message", ""))
        self.hint = error.get("hint")
        self.field = error.get("field")


def quoted(text: str) -> str:
    """Percent-encode a part of a target, RFC 3986 section 2."""
    data = text.encode(errors="surrogateescape")
    return "".join(chr(b) if chr(b) in _PLAIN else f"%{b:02X}" for b in data)


_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~,")


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one daemon."""

    path: str

    def get(self, target: str, within_s: float = ANSWER_S) -> Any:  # noqa: ANN401  JSON
        """GET a document."""
        return self.ask("GET", target, within_s=within_s)

    def ask(self, method: str, target: str, body: object = None, within_s: float = ANSWER_S) -> Any:  # noqa: ANN401  JSON
        """Make a request and return its document.

        Raises `ApiRefusedError`, `NoDaemonError`, and TimeoutError after `within_s`.
        """
        with self._asked(method, target, body, monotonic() + within_s) as (_, file, headers):
            length = headers.get("content-length")
            return json.loads(file.read(int(length) if length else -1))

    def upload(self, target: str, data: BinaryIO, within_s: float) -> Any:  # noqa: ANN401  JSON
        """PUT a file as it is; returns the document that answers it. Raises as `ask`."""
        with self._asked("PUT", target, data, monotonic() + within_s) as (_, file, headers):
            length = headers.get("content-length")
            return json.loads(file.read(int(length) if length else -1))

    def stream(self, target: str, deadline_s: float | None = None) -> Iterator[dict[str, Any]]:
        """GET a stream of JSON lines; yields until the daemon ends it.

        Raises as `ask`; TimeoutError when the monotonic clock shows `deadline_s`.
        """
        with self._asked("GET", target, None, deadline_s) as (connection, file, _):
            for line in _chunked_lines(file):
                yield json.loads(line)
                connection.settimeout(_left_s(deadline_s))

    @contextmanager
    def _asked(
        self, method: str, target: str, body: object, deadline_s: float | None
    ) -> Iterator[tuple[socket.socket, BinaryIO, dict[str, str]]]:
        """Send a request and yield where its good answer is read from."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            self._connect(connection, deadline_s)
            connection.settimeout(_left_s(deadline_s))
            try:
                if isinstance(body, BufferedReader):
                    connection.sendall(_head_of_upload(target, os.fstat(body.fileno()).st_size))
                    connection.sendfile(body)
                else:
                    connection.sendall(_request(method, target, body))
                with connection.makefile("rb") as file:
                    status, headers = _head(file)
                    if status >= REFUSED:
                        raise ApiRefusedError(status, json.loads(file.read()).get("error", {}))
                    yield connection, file, headers
            except (ConnectionError, ValueError) as error:
                raise NoDaemonError(f"{self.path}: it broke off its answer") from error

    def _connect(self, connection: socket.socket, deadline_s: float | None) -> None:
        """Connect; a daemon whose queue is full is there, and busy, so that is waited for.

        A blocking connect would wait in the kernel, and for ever (unix(7)).
        """
        connection.settimeout(0.0)
        over_s = monotonic() + ANSWER_S if deadline_s is None else deadline_s
        while True:
            try:
                connection.connect(self.path)
            except BlockingIOError:
                if monotonic() > over_s:
                    raise TimeoutError from None
                sleep(_AGAIN_S)
            except PermissionError as error:
                message = f"{self.path}: {error.strerror}"
                raise ApiRefusedError(403, {"type": "forbidden", "message": message}) from error
            except (OSError, ValueError) as error:
                raise NoDaemonError(f"{self.path!r}: {error}") from error
            else:
                return


def _left_s(deadline_s: float | None) -> float | None:
    """How long a socket may wait until then; None for ever, never zero: that means not to wait."""
    return None if deadline_s in {None, inf} else max(0.001, deadline_s - monotonic())


def _request(method: str, target: str, body: object) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: castrayd\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _head_of_upload(target: str, size: int) -> bytes:
    return (
        f"PUT {target} HTTP/1.1\r\nHost: castrayd\r\nConnection: close\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def _head(file: BinaryIO) -> tuple[int, dict[str, str]]:
    version, _, rest = file.readline().partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise ConnectionError("no HTTP answer")
    headers = {}
    while line := file.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(rest[:3]), headers


def _chunked_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines; a line may be spread over chunks, RFC 9112 section 7.1."""
    rest = b""
    while size := _size(file.readline()):
        data = file.read(size)
        if len(data) < size:
            raise ConnectionError("the stream broke off")
        *lines, rest = (rest + data).split(b"\n")
        file.readline()
        yield from lines
    if rest:
        raise ConnectionError("the stream broke off within a line")


def _size(line: bytes) -> int:
    """Read a chunk's size; no line at all is no end of the stream, but of the connection."""
    if not line:
        raise ConnectionError("the stream broke off")
    return int(line.partition(b";")[0], 16)
