"""The phase `resolve`: from a host's name to the endpoints to try.

Called by `ladder` and `returned`. getaddrinfo cannot be cancelled, and a resolver without an
answering server hangs for half a minute. So it runs in a thread that is abandoned.
"""

import ipaddress
import socket
import threading
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.core.candidates import Address
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.threads import Threads

__all__ = ("Endpoint", "endpoint_of", "resolve")

RESOLVER_THREADS: Final = 4
"""So many lookups may be under way at once; a further one waits for its turn."""

_threads: Final = Threads(RESOLVER_THREADS)


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
    begun = threading.Event()

    def ask() -> tuple[Endpoint, ...]:
        begun.set()
        return _getaddrinfo(address)

    with anyio.move_on_after(timeout_s):
        try:
            return await _threads.run(ask)
        except RuntimeError as error:  # the limit of threads is reached
            message = f"{address.host}: {error}"
            raise AttachError(Fault.of(ErrorType.DNS_FAILURE, Phase.RESOLVE, message)) from error
    if begun.is_set():
        raise _timeout(address, f"the resolver did not answer within {timeout_s} s")
    raise _timeout(address, f"{RESOLVER_THREADS} earlier questions to the resolver still hang")


def _timeout(address: Address, why: str) -> AttachError:
    fault = Fault.of(ErrorType.DNS_TIMEOUT, Phase.RESOLVE, f"{address.host}: {why}")
    return AttachError(fault)


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
