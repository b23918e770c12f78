"""The phase `resolve`: from a host's name to the endpoints to try."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from castrayd.core.candidates import Address
from castrayd.errors import AttachError, ErrorType, Fault, Phase

__all__ = ("Endpoint", "endpoint_of", "resolve")

RESOLVER_THREADS: Final = 4
"""getaddrinfo cannot be cancelled: threads that hang in it must not starve anything else."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of the transport, ready to be connected to."""

    ip: str
    port: int
    family: int
    """AF_INET or AF_INET6."""

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
    with anyio.move_on_after(timeout_s):
        return await anyio.to_thread.run_sync(
            _getaddrinfo, address, limiter=_limiter(), abandon_on_cancel=True
        )
    message = f"{address.host}: the resolver did not answer within {timeout_s} s"
    raise AttachError(Fault.of(ErrorType.DNS_TIMEOUT, Phase.RESOLVE, message))


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
    except (socket.gaierror, UnicodeError) as error:
        code = _GAI_NAMES.get(getattr(error, "errno", None) or 0)
        message = f"{address.host}: {error}"
        raise AttachError(
            Fault.of(ErrorType.DNS_FAILURE, Phase.RESOLVE, message, code=code)
        ) from error
    unique = dict.fromkeys(
        Endpoint(str(addr[0]), address.port, family) for family, *_, addr in found
    )
    return tuple(unique)


_GAI_NAMES: Final = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}

_limiters: list[anyio.CapacityLimiter] = []


def _limiter() -> anyio.CapacityLimiter:
    """One limiter for the process, made when a loop runs."""
    if not _limiters:
        _limiters.append(anyio.CapacityLimiter(RESOLVER_THREADS))
    return _limiters[0]
