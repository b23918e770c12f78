"""The phase `tcp`: does anything accept connections there?"""

import asyncio
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import anyio

from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.resolve import Endpoint

__all__ = ("connect",)

_CLASSES: Final[Mapping[int, ErrorType]] = MappingProxyType(
    {
        errno.ECONNREFUSED: ErrorType.TCP_REFUSED,
        errno.ECONNRESET: ErrorType.TCP_RESET,
        errno.ECONNABORTED: ErrorType.TCP_RESET,
        errno.EPIPE: ErrorType.TCP_RESET,
        errno.ETIMEDOUT: ErrorType.TCP_TIMEOUT,
        errno.EHOSTUNREACH: ErrorType.HOST_UNREACHABLE,
        errno.EHOSTDOWN: ErrorType.HOST_UNREACHABLE,
        errno.ENETUNREACH: ErrorType.NETWORK_UNREACHABLE,
        errno.ENETDOWN: ErrorType.NETWORK_UNREACHABLE,
        errno.EADDRNOTAVAIL: ErrorType.NETWORK_UNREACHABLE,
        errno.EAFNOSUPPORT: ErrorType.NETWORK_UNREACHABLE,
        errno.EINVAL: ErrorType.NETWORK_UNREACHABLE,  # a route of type blackhole answers so
        errno.EACCES: ErrorType.HOST_UNREACHABLE,  # a route of type prohibit, or a local firewall
        errno.EPERM: ErrorType.HOST_UNREACHABLE,
    }
)


async def connect(endpoints: Sequence[Endpoint], *, timeout_s: float) -> Endpoint:
    """Return the first endpoint that accepts; its connection is closed again at once.

    The endpoints are tried in order and share the deadline. Raises `AttachError`; when all fail
    the last failure is told, with its errno as the code.
    """
    fault: Fault | None = None
    with anyio.move_on_after(timeout_s):
        for endpoint in endpoints:
            try:
                await _knock(endpoint)
            except OSError as error:
                fault = _fault(endpoint, error)
            else:
                return endpoint
    if fault is None:
        where = ", ".join(endpoint.target for endpoint in endpoints)
        message = f"{where}: neither accepted nor refused within {timeout_s} s"
        fault = Fault.of(ErrorType.TCP_TIMEOUT, Phase.TCP, message, code="ETIMEDOUT")
    raise AttachError(fault)


async def _knock(endpoint: Endpoint) -> None:
    with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # noqa: FBT003  the socket module's form
        await asyncio.get_running_loop().sock_connect(sock, (endpoint.ip, endpoint.port))


def _fault(endpoint: Endpoint, error: OSError) -> Fault:
    number = error.errno or 0
    kind = _CLASSES.get(number, ErrorType.HOST_UNREACHABLE)
    # asyncio words its own errors; the system's words are what people search for
    reason = os.strerror(number).lower() if number else str(error)
    code = errno.errorcode.get(number)
    return Fault.of(kind, Phase.TCP, f"{endpoint.target}: {reason}", code=code)
