"""The phase `resolve`: from a host's name to the endpoints to try.

Called by `ladder` and `returned`. getaddrinfo cannot be cancelled, and a resolver without an
answering server hangs for half a minute. So it runs in a daemon thread, which is abandoned: a
thread of a pool would be joined when the interpreter ends, and hold up the end of the daemon.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.core.candidates import Address
from castrayd.errors import AttachError, ErrorType, Fault, Phase

__all__ = ("Endpoint", "endpoint_of", "resolve")

RESOLVER_THREADS: Final = 4
"""So many lookups may be under way at once; a further one waits for its turn."""
_TURN_S: Final = 0.005

_slots: Final = threading.BoundedSemaphore(RESOLVER_THREADS)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of the transport, ready to be connected to."""

    ip: str
    port: int
    family: int
    """AF_INET or AF_INET6."""
    name: str = ""
    """What it was resolved from; empty for a literal address."""

    @property
    def target(self) -> str:
        """The endpoint in gRPC's and URLs' notation."""
        return (
            f"[{self.ip}]:{self.port}"
            if self.family == socket.AF_INET6
            else f"{self.ip}:{self.port}"
        )


async def resolve(address: Address, *, timeout_s: float) -> tuple[Endpoint, ...]:
    """Resolve the host, in the resolver's order of preference; never empty.

    Raises `AttachError` (`dns_failure`, `dns_timeout`). A thread that still hangs in the resolver
    when the caller is cancelled is left to end by itself.
    """
    literal = _literal(address)
    if literal is not None:
        return (literal,)
    why = f"{RESOLVER_THREADS} earlier questions to the resolver still hang"
    with anyio.move_on_after(timeout_s):
        while not _slots.acquire(blocking=False):  # noqa: ASYNC110  given back by other threads
            await anyio.sleep(_TURN_S)
        why = f"the resolver did not answer within {timeout_s} s"
        return await _in_a_daemon_thread(address)
    raise _timeout(address, why)


def _timeout(address: Address, why: str) -> AttachError:
    fault = Fault.of(ErrorType.DNS_TIMEOUT, Phase.RESOLVE, f"{address.host}: {why}")
    return AttachError(fault)


async def _in_a_daemon_thread(address: Address) -> tuple[Endpoint, ...]:
    """Ask the resolver; the thread gives its slot back when it ends, however late."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[Endpoint, ...]] = loop.create_future()

    def settle(found: tuple[Endpoint, ...] | AttachError) -> None:
        if answer.done():
            return  # nobody waits any more
        if isinstance(found, AttachError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: tuple[Endpoint, ...] | AttachError
        try:
            found = _getaddrinfo(address)
        except AttachError as error:
            found = error
        finally:
            _slots.release()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found)

    thread = threading.Thread(target=ask, name="castrayd-resolver", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the limit of threads is reached
        _slots.release()
        message = f"{address.host}: {error}"
        raise AttachError(Fault.of(ErrorType.DNS_FAILURE, Phase.RESOLVE, message)) from error
    return await answer


def endpoint_of(ip: str, port: int) -> Endpoint:
    """Make an endpoint of a literal IP address. Raises ValueError for a name."""
    family = socket.AF_INET if ipaddress.ip_address(ip).version == 4 else socket.AF_INET6  # noqa: PLR2004
    return Endpoint(ip, port, family)


def _literal(address: Address) -> Endpoint | None:
    try:
        return endpoint_of(address.host, address.port)
    except ValueError:
        return None


def _getaddrinfo(address: Address) -> tuple[Endpoint, ...]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # a ValueError: what is no host name at all
        code = _GAI_NAMES.get(getattr(error, "errno", None) or 0)
        message = f"{address.host}: {error}"
        raise AttachError(
            Fault.of(ErrorType.DNS_FAILURE, Phase.RESOLVE, message, code=code)
        ) from error
    unique = dict.fromkeys(
        Endpoint(str(addr[0]), address.port, family, address.host) for family, *_, addr in found
    )
    return tuple(unique)


_GAI_NAMES: Final = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}
