"""The gate before every route: who asks is known by the kernel's word, and may or may not.

`app` alone puts it there. It decides by `access`, and by nothing that the
request itself says.
"""

from asyncio import BaseTransport
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from aiohttp import web

from castrayd.control.access import AccessPolicy, Peer, peer_of
from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("READS", "Gate", "may_aim", "rights", "uid", "who")

log = structlog.get_logger("castrayd.control")

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; RFC 9110 section 9.2.1."""

_CALLER: Final = "caller"
_RELOAD: Final = "/api/reload"


@dataclass(frozen=True, slots=True)
class _Caller:
    """A connection's other end, and what it may do."""

    peer: Peer
    reads: bool
    writes: bool
    aims: bool


class Gate:
    """Admits requests, or refuses them as `forbidden`; writes leave a line in the log."""

    def __init__(self, access: AccessPolicy) -> None:
        self._access = access
        self._callers: WeakKeyDictionary[BaseTransport, _Caller] = WeakKeyDictionary()
        # credentials are fixed when a connection is made (unix(7)): asked for once, not a request

    def admit(self, request: web.Request) -> None:
        """Let a request pass. Raises `ApiError` (`forbidden`)."""
        request[_CALLER] = caller = self._caller(request.transport)
        if request.method in READS:
            if not caller.reads:
                raise _forbidden(caller.peer, "read")
            return
        may_reload = request.path == _RELOAD and self._access.may_reload(caller.peer)
        if not (caller.writes or may_reload):
            raise _forbidden(caller.peer, "write")
        _note(request, caller.peer)

    def has_asked(self, transport: BaseTransport) -> bool:
        """Whether a whole request has ever come over this connection."""
        return transport in self._callers

    def _caller(self, transport: BaseTransport | None) -> _Caller:
        known = self._callers.get(transport) if transport is not None else None
        if known is not None:
            return known
        connection = transport.get_extra_info("socket") if transport is not None else None
        if transport is None or connection is None:
            raise ApiError(ApiErrorType.FORBIDDEN, "the connection is gone")
        peer = peer_of(connection)
        access = self._access
        caller = _Caller(peer, access.may_read(peer), access.may_write(peer), access.may_aim(peer))
        self._callers[transport] = caller
        return caller


def who(request: web.Request) -> str:
    """Say who asks, as status and ledger name them; of an admitted request only."""
    return f"uid {uid(request)}"


def uid(request: web.Request) -> int:
    """Return the user who asks; of an admitted request only."""
    caller: _Caller = request[_CALLER]
    return caller.peer.uid


def may_aim(request: web.Request) -> bool:
    """Whether who asks may write, and name an address of its own; of an admitted request only."""
    caller: _Caller = request[_CALLER]
    return caller.writes and caller.aims


def rights(request: web.Request) -> tuple[str, ...]:
    """Name what who asks may do here; of an admitted request only."""
    caller: _Caller = request[_CALLER]
    held = {"read": caller.reads, "write": caller.writes, "name an address": may_aim(request)}
    return tuple(right for right, has in held.items() if has)


def _note(request: web.Request, peer: Peer) -> None:
    target = request.raw_path  # as sent: decoded, it could hold line breaks
    message = f"{request.method} {target} by uid {peer.uid} pid {peer.pid}"
    write = log.debug if request.path == _OFTEN else log.info
    write(message, **{"client.uid": peer.uid, "client.pid": peer.pid})


_OFTEN: Final = "/api/messages"
"""Written to a thousand times a second; each has an event of its own."""


def _forbidden(peer: Peer, verb: str) -> ApiError:
    return ApiError(
        ApiErrorType.FORBIDDEN,
        f"uid {peer.uid} may not {verb} here",
        f"Add the user to a group of control.{verb}_groups.",
    )
