"""The phase `tcp`: does anything accept connections there?

Called by `ladder` and `returned`. Plain sockets, no gRPC: a refused port costs some hundred
microseconds, and the errno says what gRPC would put into words.
"""

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


STAGGER_S: Final = 0.25
"""Head start of each endpoint over the next. Source: RFC 8305, section 5 (Happy Eyeballs)."""


async def connect(endpoints: Sequence[Endpoint], *, timeout_s: float) -> Endpoint:
    """Return the first endpoint that accepts; its connection is closed again at once.

    The next endpoint is tried as soon as one fails, and beside one that is silent: a name may
    have an address of a family that leads nowhere. Raises `AttachError` when none accepts; all
    failures are in its message, and the preferred endpoint's is its class.
    """
    faults: dict[Endpoint, Fault] = {}
    accepted: list[Endpoint] = []
    with anyio.move_on_after(timeout_s):
        async with anyio.create_task_group() as tasks:

            async def attempt(endpoint: Endpoint, failed: anyio.Event) -> None:
                try:
                    await _knock(endpoint)
                except OSError as error:
                    faults[endpoint] = _fault(endpoint, error)
                    failed.set()
                else:
                    accepted.append(endpoint)
                    tasks.cancel_scope.cancel()

            for endpoint in endpoints:
                failed = anyio.Event()
                tasks.start_soon(attempt, endpoint, failed)
                with anyio.move_on_after(STAGGER_S):
                    await failed.wait()
    if accepted:
        return accepted[0]
    raise AttachError(_summary([faults.get(one) or _silent(one, timeout_s) for one in endpoints]))


def _summary(faults: Sequence[Fault]) -> Fault:
    """Tell the fault of the preferred endpoint; a family that this host lacks decides last."""
    reached = (fault for fault in faults if fault.type is not ErrorType.NETWORK_UNREACHABLE)
    told = next(reached, faults[0])
    message = "; ".join(fault.message for fault in faults)
    return Fault.of(told.type, Phase.TCP, message, code=told.code)


def _silent(endpoint: Endpoint, timeout_s: float) -> Fault:
    message = f"{endpoint.target}: neither accepted nor refused within {timeout_s} s"
    return Fault.of(ErrorType.TCP_TIMEOUT, Phase.TCP, message, code="ETIMEDOUT")


async def _knock(endpoint: Endpoint) -> None:
    with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # noqa: FBT003  the socket module's form
        await asyncio.get_running_loop().sock_connect(sock, (endpoint.ip, endpoint.port))


def _fault(endpoint: Endpoint, error: OSError) -> Fault:
    """Classify by errno; one that says nothing of the peer (no descriptors left) is our own."""
    number = error.errno or 0
    kind = _CLASSES.get(number, ErrorType.INTERNAL)
    # asyncio words its own errors; the system's words are what people search for
    reason = os.strerror(number).lower() if number else str(error)
    code = errno.errorcode.get(number)
    return Fault.of(kind, Phase.TCP, f"{endpoint.target}: {reason}", code=code)
