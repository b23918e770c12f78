"""The routes: parse, ask the service, reply. No rules of the attachment live here.

`app.make_app` registers them; each is documented in `openapi`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from aiohttp import web

from castrayd.casting.service import CastingService
from castrayd.control.access import AccessPolicy
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
    ReloadReply,
    VersionDocument,
)
from castrayd.control.gate import may_aim, rights, who
from castrayd.control.limits import RateLimit
from castrayd.control.openapi import MAX_LIMIT, MAX_SEQ, document
from castrayd.control.parsing import address, body, flag, integer, names, query
from castrayd.control.rendered import RenderedStatus
from castrayd.control.replies import Guarded, add, reply
from castrayd.control.stream import EventStreams
from castrayd.core.states import Desired, State
from castrayd.errors import SettingsError
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.supervisor.doctor import Doctor
from castrayd.supervisor.service import AttachmentService
from castrayd.supervisor.supervisor import ClosedError
from castrayd.telemetry.exposition import CONTENT_TYPE, load_prometheus
from castrayd.telemetry.logs import LogLevel
from castrayd.threads import READS

__all__ = ("Control", "Routes")

log = structlog.get_logger("castrayd.control")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Control:
    """What the routes work with."""

    service: AttachmentService
    casting: CastingService
    access: AccessPolicy
    reload: Callable[[], Awaitable[ReloadReply]]
    """Raises `SettingsError` and then has changed nothing."""
    log_level: LogLevel
    metrics: Callable[[], bytes]
    """In the text format of Prometheus, once its library is loaded."""
    version: VersionDocument
    doctor: Doctor


class Routes:
    """One method a route."""

    def __init__(
        self, control: Control, reconnects: RateLimit, status: RenderedStatus, streams: EventStreams
    ) -> None:
        self._control = control
        self._service = control.service
        self._reconnects = reconnects
        self._status = status
        self._streams = streams

    def add_to(self, router: web.UrlDispatcher, guarded: Guarded) -> None:
        """Register every route, each behind its guard; openapi.json documents exactly these."""
        self.add_open_to(router, guarded)
        for method, path, handler in (
            ("GET", "/api/status", self.status),
            ("GET", "/api/attempts", self.attempts),
            ("GET", "/api/attempts/{id}", self.attempt),
            ("GET", "/api/events", self.events),
            ("GET", "/api/doctor", self.doctor),
            ("GET", "/api/cluster/nodes", self.nodes),
            ("GET", "/api/log-level", self.log_level),
            ("PUT", "/api/log-level", self.set_log_level),
            ("GET", "/api/version", self.version),
            ("GET", "/api/openapi.json", self.openapi),
            ("POST", "/api/reconnect", self.reconnect),
            ("POST", "/api/pause", self.pause),
            ("POST", "/api/resume", self.resume),
            ("POST", "/api/reload", self.reload),
        ):
            add(router, method, path, guarded(handler))

    def add_open_to(self, router: web.UrlDispatcher, guarded: Guarded) -> None:
        """Register the routes that a monitoring system asks, whoever it is."""
        for path, handler in (
            ("/metrics", self.metrics),
            ("/api/health/live", self.live),
            ("/api/health/ready", self.ready),
        ):
            add(router, "GET", path, guarded(handler))

    async def metrics(self, request: web.Request) -> web.Response:
        query(request)
        await READS.run(load_prometheus)
        headers = {"Content-Type": CONTENT_TYPE}
        return web.Response(body=self._control.metrics(), headers=headers)

    async def status(self, request: web.Request) -> web.Response:
        query(request)
        return web.Response(body=self._status.body(), content_type="application/json")

    async def live(self, request: web.Request) -> web.Response:
        verbose = flag(query(request, "verbose"), "verbose")
        return reply(HealthReply("ok", checks={"loop": "ok"} if verbose else None))

    async def ready(self, request: web.Request) -> web.Response:
        verbose = flag(query(request, "verbose"), "verbose")
        snapshot = self._service.snapshot
        good = snapshot.state is State.CONNECTED
        checks = None
        if verbose:
            checks = {"state": snapshot.state.value}
            checks |= {fault.type.value: fault.message for fault in snapshot.reasons}
        health = HealthReply("ok" if good else "not_ready", snapshot.state.value, checks)
        return reply(health, status=200 if good else 503)

    async def reconnect(self, request: web.Request) -> web.Response:
        asked = await body(request, ReconnectBody)
        aim = address(asked.address)
        if aim is not None and not may_aim(request):
            raise _not_to_be_aimed()
        if self._service.snapshot.desired is Desired.PAUSED:
            raise _paused()
        wait_s = self._reconnects.take()
        if wait_s is not None:
            message = "too many reconnects"
            raise ApiError(ApiErrorType.RATE_LIMITED, message, retry_after_s=wait_s)
        step = await _still_running(self._service.reconnect(aim))
        if step.before.desired is Desired.PAUSED:
            raise _paused()
        before = {ref.id for ref in (step.before.attempt, step.before.planned) if ref}
        ref = step.after.planned or step.after.attempt
        if ref is None:
            raise _stopping()
        joined = ref.id in before
        _note_reconnect(request, asked, ref.id, joined=joined)
        return reply(ReconnectReply(ref.id, joined), status=202)

    async def pause(self, request: web.Request) -> web.Response:
        asked = await body(request, ReasonBody)
        step = await _still_running(self._service.pause(who(request), asked.reason))
        return reply(DesiredReply(step.after.desired.value))

    async def resume(self, request: web.Request) -> web.Response:
        asked = await body(request, ReasonBody)
        step = await _still_running(self._service.resume(who(request), asked.reason))
        return reply(DesiredReply(step.after.desired.value))

    async def reload(self, request: web.Request) -> web.Response:
        await body(request, EmptyBody)
        try:
            return reply(await _still_running(self._control.reload()))
        except SettingsError as error:
            raise ApiError(
                ApiErrorType.BAD_REQUEST,
                str(error),
                "Nothing was changed; `castrayd check-config` shows the same.",
                error.problems[0].path,
            ) from error

    async def attempts(self, request: web.Request) -> web.Response:
        limit = integer(query(request, "limit"), "limit", 50, low=1, high=MAX_LIMIT)
        return reply(AttemptList(self._service.attempts(limit)))

    async def attempt(self, request: web.Request) -> web.Response:
        query(request)
        found = self._service.attempt(request.match_info["id"])
        if found is None:
            message = "no such attempt, or it is too long ago"
            raise ApiError(ApiErrorType.NOT_FOUND, message)
        return reply(found)

    async def events(self, request: web.Request) -> web.StreamResponse:
        values = query(request, "since", "types", "follow")
        since = integer(values, "since", None, low=0, high=MAX_SEQ)
        types, follow = names(values, "types"), flag(values, "follow")
        return await self._streams.serve(request, since, types, follow=follow)

    async def doctor(self, request: web.Request) -> web.Response:
        aim = address(query(request, "address").get("address"))
        if aim is not None:
            if not may_aim(request):
                raise _not_to_be_aimed()
            message = f"{who(request)} has the doctor look at {aim}"
            log.info(message)
        return reply(await self._control.doctor.examine(aim, rights(request)))

    async def nodes(self, request: web.Request) -> web.Response:
        query(request)
        self._control.casting.link.attachment()
        return reply(NodeList(await self._control.casting.unified(self._service.nodes())))

    async def log_level(self, request: web.Request) -> web.Response:
        query(request)
        return reply({"level": self._control.log_level.get()})

    async def set_log_level(self, request: web.Request) -> web.Response:
        asked = await body(request, LogLevelBody)
        self._control.log_level.set(asked.level)
        return reply(asked)

    async def version(self, request: web.Request) -> web.Response:
        query(request)
        return reply(self._control.version)

    async def openapi(self, request: web.Request) -> web.Response:
        query(request)
        return reply(document())


def _paused() -> ApiError:
    return ApiError(ApiErrorType.PAUSED, "castrayd is paused", "Resume it: castrayctl resume")


def _not_to_be_aimed() -> ApiError:
    message = "an address is shown the cluster's token, so root and castrayd's user alone name one"
    hint = "Ask without an address, or set ray.address."
    return ApiError(ApiErrorType.FORBIDDEN, message, hint, "address")


def _stopping() -> ApiError:
    return ApiError(ApiErrorType.BUSY, "castrayd is stopping")


async def _still_running(answer: Awaitable[_T]) -> _T:
    try:
        return await answer
    except ClosedError:
        raise _stopping() from None


def _note_reconnect(
    request: web.Request, asked: ReconnectBody, attempt_id: str, *, joined: bool
) -> None:
    """Log who wanted an attempt, and why: status does not keep it, as it does for a pause."""
    verb = "joins" if joined else "begins"
    message = f"{who(request)} {verb} attempt {attempt_id}: {asked.reason or 'no reason given'!r}"
    keys = {"castray.attempt.id": attempt_id}
    if asked.reason is not None:
        keys["castray.request.reason"] = asked.reason
    log.info(message, **keys)
