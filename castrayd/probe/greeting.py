"""What listens there, when gRPC cannot talk to it: connect plainly and look at the first bytes.

Called by `peer`. gRPC reports a server of another protocol, one that speaks TLS, a reset and a
broken start alike as `unavailable` and tells them apart in words that change with its version.
The bytes do not. They are looked at only here, where no status and no errno can tell.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.errors import ErrorType
from castrayd.probe.credentials import Tls
from castrayd.probe.resolve import Endpoint

__all__ = ("Greeting", "first_words")

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's client preface and an empty SETTINGS frame: RFC 9113, sections 3.4 and 6.5."""
_SETTINGS_TYPE: Final = 4
_TLS_ALERT: Final = 0x15
_TLS_HANDSHAKE: Final = 0x16
"""Types of TLS records: RFC 8446, section 5.1. No text protocol begins with such a byte."""
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the port's first bytes say."""

    kind: ErrorType
    text: str


async def first_words(endpoint: Endpoint, tls: Tls | None, timeout_s: float) -> Greeting:
    """Greet the port as an HTTP/2 client does, and classify what it answers.

    With `tls` the greeting is a handshake with those certificates. Without, a peer that hangs up
    is greeted once more, in TLS: gRPC's own TLS servers hang up on a plain greeting without the
    alert that would give them away.
    """
    try:
        with anyio.fail_after(timeout_s):
            if tls is not None:
                return await _shake_hands(endpoint, tls)
            answer = await _say(endpoint, _PREFACE)
            if not answer and (await _say(endpoint, _client_hello()))[:1] in _TLS_RECORDS:
                return _TLS
    except TimeoutError:
        return Greeting(ErrorType.HEALTH_TIMEOUT, "accepts connections and stays silent")
    except ConnectionRefusedError:
        return Greeting(ErrorType.TCP_RESET, "refuses connections now")
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
        return Greeting(ErrorType.TCP_RESET, f"cannot be connected to any more ({name})")
    return _classify(answer)


async def _say(endpoint: Endpoint, words: bytes) -> bytes:
    """Return the first bytes of the answer; empty where the peer hangs up, politely or not."""
    loop = asyncio.get_running_loop()
    with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # noqa: FBT003  the socket module's form
        await loop.sock_connect(sock, (endpoint.ip, endpoint.port))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await loop.sock_sendall(sock, words)
            return await loop.sock_recv(sock, 512)
    return b""


async def _shake_hands(endpoint: Endpoint, tls: Tls) -> Greeting:
    """Do what gRPC did, with a library that says what was wrong."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        context.load_cert_chain(tls.certificate, tls.key)
        context.set_alpn_protocols(["h2"])
        host = endpoint.name or endpoint.ip
        stream, writer = await asyncio.open_connection(
            endpoint.ip, endpoint.port, ssl=context, server_hostname=host
        )
        try:
            writer.write(_PREFACE)
            return _classify(await stream.read(512))  # a certificate is refused only here
        finally:
            writer.transport.abort()
    except ssl.SSLError as error:
        said = getattr(error, "verify_message", "") or error.reason or str(error)
        return Greeting(ErrorType.TLS_FAILURE, f"TLS fails: {said}")


def _client_hello() -> bytes:
    """Return what a TLS client says first. Nothing is trusted: only the answer's type is read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def _classify(data: bytes) -> Greeting:
    if not data:
        return Greeting(ErrorType.TCP_RESET, "accepts connections and hangs up at once")
    if data[:1] in _TLS_RECORDS:
        return _TLS
    if len(data) > 3 and data[3] == _SETTINGS_TYPE:  # noqa: PLR2004  a frame's type is byte 3
        return Greeting(ErrorType.GCS_NOT_SERVING, "speaks HTTP/2 but ended the call")
    shown = data[:_SHOWN].split(b"\r\n")[0].decode("latin-1")
    return Greeting(ErrorType.NOT_RAY, f"speaks another protocol: {shown!r}")


_TLS: Final = Greeting(ErrorType.TLS_FAILURE, "speaks TLS, and the probe does not")
_TLS_RECORDS: Final = (bytes([_TLS_ALERT]), bytes([_TLS_HANDSHAKE]))
