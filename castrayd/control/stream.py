"""GET /api/events: the event stream as NDJSON, to any number of followers.

Opened by the route. A follower that reads too slowly misses events and is told how many; one that
has gone is noticed although nothing happens; one that reads nothing at all is `stuck`'s business.
"""

import contextlib
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import anyio
from aiohttp import web

from castrayd.supervisor.service import AttachmentService
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.encoding import to_json
from castrayd.telemetry.events import Replay

__all__ = ("EventStreams",)

LOOK_S: Final = 1.0
"""How often a quiet stream looks whether its follower is still there."""


class EventStreams:
    """All streams of one daemon; `close` ends them, so that stopping waits for none."""

    def __init__(self, service: AttachmentService) -> None:
        self._service = service
        self._clock = Clock()
        self._scopes: set[anyio.CancelScope] = set()

    def close(self) -> None:
        """End every stream that follows, each after a whole line."""
        for scope in self._scopes:
            scope.cancel()

    async def serve(
        self,
        request: web.Request,
        since: int | None,
        types: frozenset[str] | None,
        *,
        follow: bool,
    ) -> web.StreamResponse:
        """Send a snapshot, what was missed since `since`, and with `follow` what comes."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        events = self._service.events
        with _cut_unless_whole(request), events.subscribe(types) as follower:
            # nothing may be awaited between the subscription and these: no gap, nothing twice
            replay = Replay((), reset=False) if since is None else events.since(since, types)
            first = self._snapshot(reset=replay.reset)
            await response.prepare(request)
            await _send(response, first)
            for item in replay.items:
                await _send(response, item)
            if follow:
                await self._follow(request, response, follower)
            await response.write_eof()
        return response

    async def serve_items(
        self, request: web.Request, items: AsyncIterable[Mapping[str, Any]]
    ) -> web.StreamResponse:
        """Send what comes, one JSON document a line, until the follower goes."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with _cut_unless_whole(request):
            await response.prepare(request)
            await self._follow(request, response, items)
            await response.write_eof()
        return response

    def _snapshot(self, *, reset: bool) -> Mapping[str, Any]:
        events = self._service.events
        first: dict[str, Any] = {
            "name": "snapshot",
            "stream_id": events.stream_id,
            "seq": events.last_seq,
            "at": self._clock.now(),
            "status": self._service.status(),
        }
        return first | ({"reset": True} if reset else {})

    async def _follow(
        self,
        request: web.Request,
        response: web.StreamResponse,
        items: AsyncIterable[Mapping[str, Any]],
    ) -> None:
        """Pass on what comes, until the follower goes or `close` is called."""
        async with anyio.create_task_group() as tasks:
            self._scopes.add(tasks.cancel_scope)
            try:
                tasks.start_soon(_end_when_gone, request, tasks.cancel_scope, name="follower")
                with contextlib.suppress(ConnectionError):
                    async for item in items:
                        await _send(response, item)
                _cut(request)
                tasks.cancel_scope.cancel()
            finally:
                self._scopes.discard(tasks.cancel_scope)


@contextmanager
def _cut_unless_whole(request: web.Request) -> Iterator[None]:
    """Close the connection of a stream that did not end as it should: its rest is worthless."""
    whole = False
    try:
        with contextlib.suppress(ConnectionError):
            yield
            whole = True
    finally:
        if not whole:
            _cut(request)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()  # a close would first wait for what is not read


async def _end_when_gone(request: web.Request, scope: anyio.CancelScope) -> None:
    while request.transport is not None:  # noqa: ASYNC110  aiohttp tells only who writes
        await anyio.sleep(LOOK_S)
    scope.cancel()


async def _send(response: web.StreamResponse, item: Mapping[str, Any]) -> None:
    await response.write(to_json(item) + b"\n")
