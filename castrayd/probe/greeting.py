"""What listens there, when gRPC cannot talk to it: connect plainly and look at the first bytes.

gRPC reports a server of another protocol, a reset and a broken start alike as `unavailable` and
tells them apart in words that change with its version. The bytes do not.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.errors import ErrorType
from castrayd.probe.resolve import Endpoint

__all__ = ("Greeting", "first_words")

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's client preface and an empty SETTINGS frame: RFC 9113, sections 3.4 and 6.5."""
_SETTINGS_TYPE: Final = 4
_TLS_ALERT: Final = 0x15
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the port's first bytes say."""

    kind: ErrorType
    text: str


async def first_words(endpoint: Endpoint, timeout_s: float) -> Greeting:
    """Greet the port as an HTTP/2 client does, and classify what it answers."""
    loop = asyncio.get_running_loop()
    with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # noqa: FBT003  the socket module's form
        try:
            with anyio.fail_after(timeout_s):
                await loop.sock_connect(sock, (endpoint.ip, endpoint.port))
                await loop.sock_sendall(sock, _PREFACE)
                return _classify(await loop.sock_recv(sock, 512))
        except TimeoutError:
            return Greeting(ErrorType.HEALTH_TIMEOUT, "accepts connections and stays silent")
        except ConnectionRefusedError:
            return Greeting(ErrorType.TCP_RESET, "refused a second connection: it is just ending")
        except OSError as error:
            return Greeting(ErrorType.TCP_RESET, f"connection reset ({error.strerror or error})")


def _classify(data: bytes) -> Greeting:
    if not data:
        # a TLS server may hang up without an alert on what is no handshake
        return Greeting(ErrorType.TCP_RESET, "accepts connections and closes them at once")
    if data[0] == _TLS_ALERT:
        return Greeting(ErrorType.TLS_FAILURE, "speaks TLS, and we do not")
    if len(data) > 3 and data[3] == _SETTINGS_TYPE:  # noqa: PLR2004  a frame's type is byte 3
        return Greeting(ErrorType.GCS_NOT_SERVING, "speaks HTTP/2 but ended the call")
    shown = data[:_SHOWN].split(b"\r\n")[0].decode("latin-1")
    return Greeting(ErrorType.NOT_RAY, f"speaks another protocol: {shown!r}")
