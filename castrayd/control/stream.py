"""GET /api/events: the event stream as NDJSON, one follower at a time."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import anyio
from aiohttp import web

from castrayd.control.bodies import encode
from castrayd.supervisor.service import AttachmentService

__all__ = ("stream_events",)

WRITE_S: Final = 10.0
"""A follower that takes no bytes for so long is cut off."""


async def stream_events(
    request: web.Request,
    service: AttachmentService,
    *,
    since: int | None,
    types: frozenset[str] | None,
    follow: bool,
) -> web.StreamResponse:
    """Send a snapshot, what was missed since `since`, and with `follow` what comes."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    with service.events.subscribe(types) as follower:  # before the snapshot, so that none is lost
        first, replayed = _opening(service, since, types)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            await _send(response, first)
            for item in replayed:
                await _send(response, item)
            if follow:
                async for item in follower:
                    await _send(response, item)
            with anyio.fail_after(WRITE_S):
                await response.write_eof()
            return response
    if request.transport is not None:
        request.transport.abort()  # the rest would only fill memory
    return response


def _opening(
    service: AttachmentService, since: int | None, types: frozenset[str] | None
) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]:
    events = service.events
    status = service.status()
    first: dict[str, Any] = {
        "name": "snapshot",
        "stream_id": events.stream_id,
        "seq": events.last_seq,
        "status": status,
    }
    if since is None:
        return first, ()
    replay = events.since(since, types)
    if replay.reset:
        first["reset"] = True
    return first, replay.items


async def _send(response: web.StreamResponse, item: Mapping[str, Any]) -> None:
    with anyio.fail_after(WRITE_S):
        await response.write(encode(item) + b"\n")
