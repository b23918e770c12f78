"""The aiohttp application: routes, who may use them, and errors as typed replies."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from socket import socket
from typing import Final

import anyio
import structlog
from aiohttp import web
from anyio.abc import TaskStatus

from castrayd.control.access import AccessPolicy, peer_of
from castrayd.control.bodies import ErrorBody, ErrorReply, ReloadReply, VersionDocument, encode
from castrayd.control.limits import RateLimit
from castrayd.errors import API_STATUS, ApiError, ApiErrorType
from castrayd.supervisor.service import AttachmentService
from castrayd.telemetry.logs import LogLevel

__all__ = ("Control", "handle_errors", "make_app", "serve")

log = structlog.get_logger("castrayd.control")

MAX_BODY_BYTES: Final = 1024 * 1024
RECONNECT_BURST: Final = 5
RECONNECTS_PER_S: Final = 1.0
STOP_S: Final = 0.2
"""Stopping does not wait for followers: their streams are cut."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the routes work with."""

    service: AttachmentService
    access: AccessPolicy
    reload: Callable[[], Awaitable[ReloadReply]]
    log_level: LogLevel
    version: VersionDocument


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_READS: Final = frozenset({"GET", "HEAD"})


def make_app(control: Control) -> web.Application:
    """Build the application; one per daemon."""
    from castrayd.control.routes import Routes  # noqa: PLC0415  routes take Control from here

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _authorise(control.access, request)
            return await handler(request)
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets a typed reply
            return handle_errors(request, error)

    app = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)
    limit = RateLimit(RECONNECT_BURST, RECONNECTS_PER_S, anyio.current_time)
    Routes(control, limit).add_to(app.router)
    return app


def _authorise(access: AccessPolicy, request: web.Request) -> None:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        message = "the connection is gone"
        raise ApiError(ApiErrorType.FORBIDDEN, message)
    peer = peer_of(connection)
    if request.method in _READS:
        if access.may_read(peer):
            return
    elif access.may_write(peer):
        request["who"] = f"uid {peer.uid}"
        message = f"{request.method} {request.path} by uid {peer.uid} pid {peer.pid}"
        log.info(message, **{"client.uid": peer.uid, "client.pid": peer.pid})
        return
    verb = "read" if request.method in _READS else "write"
    raise ApiError(
        ApiErrorType.FORBIDDEN,
        f"uid {peer.uid} may not {verb} here",
        f"Add the user to a group of control.{verb}_groups.",
    )


def handle_errors(request: web.Request, error: Exception) -> web.Response:
    """Turn whatever a handler raised into a typed reply."""
    headers: dict[str, str] = {}
    match error:
        case ApiError():
            status, body = API_STATUS[error.type], _body(error)
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        case web.HTTPRequestEntityTooLarge():
            status = API_STATUS[ApiErrorType.TOO_LARGE]
            body = ErrorBody(ApiErrorType.TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes")
        case web.HTTPMethodNotAllowed():
            status, headers = 405, {"Allow": ", ".join(sorted(error.allowed_methods))}
            body = ErrorBody(ApiErrorType.BAD_REQUEST, f"{request.method} is not allowed here")
        case web.HTTPNotFound():
            status = 404
            body = ErrorBody(ApiErrorType.NOT_FOUND, f"no route {request.path}")
        case web.HTTPException():
            status = error.status if error.status < 500 else 400  # noqa: PLR2004
            body = ErrorBody(ApiErrorType.BAD_REQUEST, error.reason)
        case _:
            log.error("a request failed by a bug", path=request.path, exc_info=error)
            status = 500
            body = ErrorBody(ApiErrorType.INTERNAL, f"{type(error).__name__}: {error}")
    return web.Response(
        body=encode(ErrorReply(body)),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def _body(error: ApiError) -> ErrorBody:
    return ErrorBody(error.type, error.message, error.hint, error.field)


async def serve(
    control: Control,
    listener: socket,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control API on `listener` until cancelled; reports started when it answers."""
    runner = web.AppRunner(
        make_app(control), access_log=None, handle_signals=False, shutdown_timeout=STOP_S
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        task_status.started()
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True), contextlib.suppress(OSError):
            await runner.cleanup()
