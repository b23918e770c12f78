"""The aiohttp application: who may pass, errors as typed replies, and serving it.

The composition root calls `serve`; tests may build the application alone. Routes are in `routes`.
"""

import contextlib
import math
from asyncio import BaseTransport
from collections.abc import Callable, Iterable
from socket import socket
from time import monotonic
from typing import Final

import anyio
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from anyio.abc import TaskStatus

from castrayd.control.bodies import ErrorBody, ErrorReply
from castrayd.control.casting import CastingRoutes
from castrayd.control.gate import READS, Gate
from castrayd.control.limits import RateLimit
from castrayd.control.rendered import RenderedStatus
from castrayd.control.replies import Handler
from castrayd.control.routes import Control, Routes
from castrayd.control.socket import BACKLOG
from castrayd.control.stream import EventStreams
from castrayd.control.stuck import cut_stuck
from castrayd.errors import described
from castrayd.refusals import API_STATUS, ApiError, ApiErrorType
from castrayd.telemetry.encoding import to_json

__all__ = ("Control", "make_app", "serve", "serve_open")

log = structlog.get_logger("castrayd.control")

MAX_BODY_BYTES: Final = 1024 * 1024
RECONNECT_BURST: Final = 5
RECONNECTS_PER_S: Final = 1.0
ELSEWHERE: Final = "/{path:.*}"
IDLE_S: Final = 60.0
"""A connection on which nothing is asked for so long is closed."""
STOP_S: Final = 0.2
"""What a request under way gets when the daemon ends."""


def make_app(control: Control, gate: Gate, now: Callable[[], float] = monotonic) -> web.Application:
    """Build the application; one per daemon. `now` is monotonic, in seconds."""
    status = RenderedStatus(control.service, now)
    streams = EventStreams(control.service)

    def guarded(handler: Handler) -> Handler:
        return _guarded(handler, gate.admit, status.forget)

    async def end_streams(_app: web.Application) -> None:
        streams.close()

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.on_shutdown.append(end_streams)
    limit = RateLimit(RECONNECT_BURST, RECONNECTS_PER_S, now)
    Routes(control, limit, status, streams).add_to(app.router, guarded)
    CastingRoutes(control.casting, streams).add_to(app.router, guarded)
    app.router.add_route("*", ELSEWHERE, guarded(_elsewhere), expect_handler=_expect_nothing)
    return app


def _make_open_app(control: Control) -> web.Application:
    """Build the one for anybody: its routes change nothing and tell no secret."""

    def anybody(handler: Handler) -> Handler:
        return _guarded(handler, lambda _request: None, lambda: None)

    app = web.Application(client_max_size=0)
    nothing = RateLimit(1, 1.0, monotonic)
    status, streams = RenderedStatus(control.service, monotonic), EventStreams(control.service)
    Routes(control, nothing, status, streams).add_open_to(app.router, anybody)
    app.router.add_route("*", ELSEWHERE, anybody(_elsewhere))
    return app


def _guarded(
    handler: Handler, admit: Callable[[web.Request], None], written: Callable[[], None]
) -> Handler:
    """Let in whom `admit` lets in, and call `written` after whatever may have changed something.

    No middleware of aiohttp's: those cost a tenth of a whole GET /api/status.
    """

    async def guard(request: web.Request) -> web.StreamResponse:
        try:
            admit(request)
            return await handler(request)
        except Exception as error:  # noqa: BLE001  whatever it is, it gets a typed reply
            return _refusal(request, error)
        finally:
            if request.method not in READS:
                written()

    return guard


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # nobody needs it, and a small body could become a huge one
        handle_signals=False,
        keepalive_timeout=IDLE_S,
        logger=_ServerLog(),
        shutdown_timeout=STOP_S,
    )


async def _expect_nothing(_request: web.Request) -> None:
    """Leave whatever is expected to the guard, which refuses."""


async def _elsewhere(request: web.Request) -> web.StreamResponse:
    """Refuse what no route takes: by its method, or wholly."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        allowed |= (await resource.resolve(request))[1]
    allowed -= {"*"}  # ours
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


def _refusal(request: web.Request, error: Exception) -> web.Response:
    """Turn whatever a handler raised into a typed reply."""
    headers: dict[str, str] = {}
    match error:
        case ApiError():
            status = API_STATUS[error.type]
            body = ErrorBody(error.type, error.message, error.hint, error.field)
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        case web.HTTPMethodNotAllowed():
            status, headers = 405, {"Allow": ", ".join(sorted(error.allowed_methods))}
            body = ErrorBody(ApiErrorType.BAD_REQUEST, f"{request.method} is not allowed here")
        case web.HTTPException():
            status, body = _by_aiohttp(request, error)
        case _:
            message = f"a request failed by a bug: {request.raw_path}"
            log.error(message, exc_info=error)
            status = 500
            body = ErrorBody(ApiErrorType.INTERNAL, described(error))
    return web.Response(
        body=to_json(ErrorReply(body)),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def _by_aiohttp(request: web.Request, error: web.HTTPException) -> tuple[int, ErrorBody]:
    """Name a refusal that aiohttp itself has raised."""
    match error:
        case web.HTTPRequestEntityTooLarge():
            kind, message = ApiErrorType.TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes"
        case web.HTTPNotFound():
            kind, message = ApiErrorType.NOT_FOUND, f"no route {request.path}"
        case _:
            kind, message = ApiErrorType.BAD_REQUEST, error.reason
    return API_STATUS[kind], ErrorBody(kind, message)


class _ServerLog:
    """Takes what aiohttp itself would print, so that the log stays one of whole, typed lines."""

    def debug(self, *_args: object, **_more: object) -> None:
        """Drop it: clients that go away early, and the like."""

    def exception(self, message: str, *args: object, exc_info: BaseException) -> None:
        """Log a bug. What is no HTTP is the client's fault, and anybody can send it."""
        if not isinstance(exc_info, (HttpProcessingError, web.RequestPayloadError)):
            log.error(message % args if args else message, exc_info=exc_info)


def _transports(runner: web.AppRunner) -> Iterable[BaseTransport | None]:
    """Return the connections that there are, those that have said nothing yet among them."""
    server = runner.server
    return [one.transport for one in server.connections] if server is not None else ()


async def serve(
    control: Control,
    listener: socket,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control API on `listener` until cancelled; reports started when it answers.

    Cancellation ends followers' streams, gives other requests `STOP_S` and closes the listener.
    """
    gate = Gate(control.access)
    await _serve(make_app(control, gate), listener, gate.has_asked, task_status)


async def serve_open(
    control: Control,
    listener: socket,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve metrics and health, and nothing else, on a loopback socket, as `serve` does."""
    await _serve(_make_open_app(control), listener, lambda _transport: True, task_status)


async def _serve(
    app: web.Application,
    listener: socket,
    has_asked: Callable[[BaseTransport], bool],
    task_status: TaskStatus[None],
) -> None:
    runner = _runner(app)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        task_status.started()
        await cut_stuck(lambda: _transports(runner), has_asked)
    finally:
        with anyio.CancelScope(shield=True), contextlib.suppress(OSError):
            await runner.cleanup()
