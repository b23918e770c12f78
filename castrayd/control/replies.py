"""What every route has: its reply as JSON, and how it is registered."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from castrayd.telemetry.encoding import to_json

__all__ = ("Guarded", "Handler", "add", "reply")

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guarded: TypeAlias = Callable[[Handler], Handler]


def reply(content: object, status: int = 200) -> web.Response:
    """Encode a document as the reply."""
    return web.Response(body=to_json(content), status=status, content_type="application/json")


def add(router: web.UrlDispatcher, method: str, path: str, handler: Handler) -> None:
    """Register a route; GET without HEAD, which of a stream has no sense."""
    router.add_route(method, path, handler, expect_handler=_expect)


async def _expect(request: web.Request) -> None:
    """Answer `Expect: 100-continue`; any other expectation is left to the guard of the route."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
