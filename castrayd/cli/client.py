"""A small HTTP client for the control socket: one request a connection, the standard library alone.

castrayctl must answer as quickly as a shell expects; http.client and aiohttp cost more to import
than the request takes.
"""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

__all__ = ("ApiRefusedError", "Client", "NoDaemonError")

ANSWER_S: Final = 30.0


class NoDaemonError(Exception):
    """Raised when nobody answers at the socket."""


class ApiRefusedError(Exception):
    """Raised when the daemon refuses a request."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(status, error)
        self.status = status
        self.type = str(error.get("type", "internal"))
        self.message = str(error.get("message", ""))
        self.hint = error.get("hint")
        self.field = error.get("field")


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one daemon."""

    path: str

    def get(self, target: str) -> Any:  # noqa: ANN401  JSON
        """GET a document."""
        return self.ask("GET", target)

    def ask(self, method: str, target: str, body: object = None) -> Any:  # noqa: ANN401  JSON
        """Make a request and return its document. Raises `ApiRefusedError`, `NoDaemonError`."""
        status, answer = self.raw(method, target, body)
        if status >= 400:  # noqa: PLR2004
            raise ApiRefusedError(status, answer.get("error", {}))
        return answer

    def raw(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Make a request and return status and document, whatever the status."""
        with self._connect(ANSWER_S) as connection, connection.makefile("rb") as file:
            _send(connection, method, target, body)
            status, _ = _head(file)
            return status, json.loads(file.read())

    def stream(self, target: str, idle_s: float | None = None) -> Iterator[dict[str, Any]]:
        """GET a stream of JSON lines; yields until the daemon ends it.

        `idle_s` bounds the wait for each line: then TimeoutError.
        """
        with self._connect(idle_s) as connection, connection.makefile("rb") as file:
            _send(connection, "GET", target, None)
            status, headers = _head(file)
            if status >= 400:  # noqa: PLR2004
                raise ApiRefusedError(status, json.loads(file.read()).get("error", {}))
            chunked = headers.get("transfer-encoding") == "chunked"
            for line in _lines(file, chunked=chunked):
                yield json.loads(line)

    def _connect(self, timeout_s: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(self.path)
        except OSError as error:
            connection.close()
            raise NoDaemonError(f"{self.path}: {error.strerror or error}") from error
        return connection


def _send(connection: socket.socket, method: str, target: str, body: object) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: castrayd\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)


def _head(file: BinaryIO) -> tuple[int, dict[str, str]]:
    parts = file.readline().split(b" ", 2)
    if len(parts) < 2 or not parts[1].isdigit():  # noqa: PLR2004
        raise NoDaemonError("the daemon hung up")
    headers = {}
    while line := file.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(parts[1]), headers


def _lines(file: BinaryIO, *, chunked: bool) -> Iterator[bytes]:
    """Yield whole lines; a line may be spread over chunks, RFC 9112 section 7.1."""
    rest = b""
    while chunked and (size := int(file.readline().split(b";")[0] or b"0", 16)):
        *lines, rest = (rest + file.read(size)).split(b"\n")
        file.readline()
        yield from lines
    if not chunked:
        yield from (line.rstrip(b"\n") for line in file)
