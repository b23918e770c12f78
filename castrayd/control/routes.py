"""The routes: parse, ask the service, reply. No rules of the attachment live here."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from castrayd.control.app import Control
from castrayd.control.bodies import (
    AttemptList,
    DesiredReply,
    EmptyBody,
    HealthReply,
    LogLevelBody,
    NodeList,
    ReasonBody,
    ReconnectBody,
    ReconnectReply,
    encode,
)
from castrayd.control.limits import RateLimit
from castrayd.control.openapi import document
from castrayd.control.stream import stream_events
from castrayd.core.candidates import parse_address
from castrayd.core.states import Desired, State
from castrayd.errors import ApiError, ApiErrorType, AttachError, SettingsError
from castrayd.supervisor.supervisor import ClosedError
from castrayd.telemetry.logs import LEVELS

__all__ = ("Routes",)

MAX_LIMIT: Final = 1000
MAX_REASON_CHARS: Final = 1024
_T = TypeVar("_T")


class Routes:
    """One method a route."""

    def __init__(self, control: Control, reconnects: RateLimit) -> None:
        self._control = control
        self._service = control.service
        self._reconnects = reconnects

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register every route; openapi.json documents exactly these."""
        router.add_get("/api/status", self.status)
        router.add_get("/api/health/live", self.live)
        router.add_get("/api/health/ready", self.ready)
        router.add_post("/api/reconnect", self.reconnect)
        router.add_post("/api/pause", self.pause)
        router.add_post("/api/resume", self.resume)
        router.add_post("/api/reload", self.reload)
        router.add_get("/api/attempts", self.attempts)
        router.add_get("/api/attempts/{id}", self.attempt)
        router.add_get("/api/events", self.events)
        router.add_get("/api/cluster/nodes", self.nodes)
        router.add_get("/api/log-level", self.log_level)
        router.add_put("/api/log-level", self.set_log_level)
        router.add_get("/api/version", self.version)
        router.add_get("/api/openapi.json", self.openapi)

    async def status(self, request: web.Request) -> web.Response:
        _query(request)
        return _reply(self._service.status())

    async def live(self, request: web.Request) -> web.Response:
        verbose = _flag(_query(request, "verbose"), "verbose")
        return _reply(HealthReply("ok", checks={"loop": "ok"} if verbose else None))

    async def ready(self, request: web.Request) -> web.Response:
        verbose = _flag(_query(request, "verbose"), "verbose")
        snapshot = self._service.snapshot
        good = snapshot.state is State.CONNECTED
        checks = None
        if verbose:
            checks = {"state": snapshot.state.value}
            checks |= {fault.type.value: fault.message for fault in snapshot.reasons}
        body = HealthReply("ok" if good else "not_ready", snapshot.state.value, checks)
        return _reply(body, status=200 if good else 503)

    async def reconnect(self, request: web.Request) -> web.Response:
        body = await _body(request, ReconnectBody)
        _check_reason(body.reason)
        address = _address(body.address)
        if self._service.snapshot.desired is Desired.PAUSED:
            raise _paused()
        wait_s = self._reconnects.take()
        if wait_s is not None:
            raise ApiError(ApiErrorType.RATE_LIMITED, "too many reconnects", retry_after_s=wait_s)
        step = await _still_running(self._service.reconnect(address))
        if step.before.desired is Desired.PAUSED:
            raise _paused()
        before = {ref.id for ref in (step.before.attempt, step.before.planned) if ref}
        ref = step.after.planned or step.after.attempt
        if ref is None:
            raise ApiError(ApiErrorType.BUSY, "castrayd is stopping")
        return _reply(ReconnectReply(ref.id, ref.id in before), status=202)

    async def pause(self, request: web.Request) -> web.Response:
        body = await _body(request, ReasonBody)
        _check_reason(body.reason)
        step = await _still_running(self._service.pause(request["who"], body.reason))
        return _reply(DesiredReply(step.after.desired.value))

    async def resume(self, request: web.Request) -> web.Response:
        body = await _body(request, ReasonBody)
        _check_reason(body.reason)
        step = await _still_running(self._service.resume(request["who"], body.reason))
        return _reply(DesiredReply(step.after.desired.value))

    async def reload(self, request: web.Request) -> web.Response:
        await _body(request, EmptyBody)
        try:
            return _reply(await _still_running(self._control.reload()))
        except SettingsError as error:
            raise ApiError(
                ApiErrorType.BAD_REQUEST,
                str(error),
                "Nothing was changed; `castrayd check-config` shows the same.",
                error.problems[0].path,
            ) from error

    async def attempts(self, request: web.Request) -> web.Response:
        limit = _integer(_query(request, "limit"), "limit", 50, low=1, high=MAX_LIMIT)
        return _reply(AttemptList(self._service.attempts(limit)))

    async def attempt(self, request: web.Request) -> web.Response:
        _query(request)
        found = self._service.attempt(request.match_info["id"])
        if found is None:
            raise ApiError(ApiErrorType.NOT_FOUND, "no such attempt, or it is too long ago")
        return _reply(found)

    async def events(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, "since", "types", "follow")
        since = _integer(query, "since", None, low=0, high=2**62)
        types = frozenset(query["types"].split(",")) if query.get("types") else None
        return await stream_events(
            request, self._service, since=since, types=types, follow=_flag(query, "follow")
        )

    async def nodes(self, request: web.Request) -> web.Response:
        _query(request)
        if self._service.snapshot.state not in {State.CONNECTED, State.DEGRADED}:
            raise ApiError(ApiErrorType.NOT_CONNECTED, "no cluster is attached")
        return _reply(NodeList(self._service.nodes()))

    async def log_level(self, request: web.Request) -> web.Response:
        _query(request)
        return _reply(LogLevelBody(self._control.log_level.get()))

    async def set_log_level(self, request: web.Request) -> web.Response:
        body = await _body(request, LogLevelBody)
        if body.level not in LEVELS:
            levels = ", ".join(LEVELS)
            raise ApiError(ApiErrorType.BAD_REQUEST, f"one of {levels}", field="level")
        self._control.log_level.set(body.level)
        return _reply(body)

    async def version(self, request: web.Request) -> web.Response:
        _query(request)
        return _reply(self._control.version)

    async def openapi(self, request: web.Request) -> web.Response:
        _query(request)
        return _reply(document())


def _reply(body: object, status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json")


def _paused() -> ApiError:
    return ApiError(ApiErrorType.PAUSED, "castrayd is paused", "Resume it: castrayctl resume")


async def _still_running(answer: Any) -> Any:  # noqa: ANN401  any awaitable
    try:
        return await answer
    except ClosedError:
        raise ApiError(ApiErrorType.BUSY, "castrayd is stopping") from None


async def _body(request: web.Request, kind: type[_T]) -> _T:
    """Decode the body; none at all is an empty object."""
    _query(request)
    raw = await request.read() or b"{}"
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`") or None
        raise ApiError(ApiErrorType.BAD_REQUEST, message, field=field) from error


def _check_reason(reason: str | None) -> None:
    if reason is not None and len(reason) > MAX_REASON_CHARS:
        message = f"at most {MAX_REASON_CHARS} characters"
        raise ApiError(ApiErrorType.BAD_REQUEST, message, field="reason")


def _address(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return parse_address(text).url
    except AttachError as error:
        fault = error.fault
        raise ApiError(
            ApiErrorType.BAD_REQUEST, fault.message, fault.hint, field="address"
        ) from error


def _query(request: web.Request, *known: str) -> Mapping[str, str]:
    for name in request.query:
        if name not in known:
            raise ApiError(ApiErrorType.BAD_REQUEST, "no such parameter", field=name)
        if len(request.query.getall(name)) > 1:
            raise ApiError(ApiErrorType.BAD_REQUEST, "given more than once", field=name)
    return request.query


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name)
    if text is None:
        return False
    if text in {"", "1", "true"}:
        return True
    if text in {"0", "false"}:
        return False
    raise ApiError(ApiErrorType.BAD_REQUEST, "true or false is expected", field=name)


def _integer(
    query: Mapping[str, str], name: str, default: int | None, *, low: int, high: int
) -> Any:  # noqa: ANN401  int, or None only where the default is
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not low <= int(text[:20]) <= high:
        message = f"a number from {low} to {high} is expected"
        raise ApiError(ApiErrorType.BAD_REQUEST, message, field=name)
    return int(text)
