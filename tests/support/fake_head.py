"""A head that answers the probes as it is told: for what no real head here can be made to say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

__all__ = ("fake_head",)


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


@asynccontextmanager
async def fake_head(
    *,
    version: str = "2.60.0",
    cluster_id: bytes = b"c" * 28,
    serving: int = 1,
    token: str | None = None,
    knows_identity: bool = True,
) -> AsyncIterator[str]:
    """Serve health and identity on loopback."""

    async def check(_request: bytes, _context: Any) -> bytes:
        return bytes([8, serving])

    async def watch(_request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield bytes([8, serving])
        while not context.cancelled():
            import anyio

            await anyio.sleep(0.05)

    async def _admit(context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        if token is not None and metadata.get("authorization") != f"Bearer {token}":
            detail = "InvalidAuthToken: Authentication token is missing or incorrect"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, detail)

    async def alive(_request: bytes, context: Any) -> bytes:
        await _admit(context)
        return _field(2, version.encode())

    async def identity(_request: bytes, context: Any) -> bytes:
        await _admit(context)
        return _field(2, cluster_id)

    server = grpc.aio.server()
    health = {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    handlers = [grpc.method_handlers_generic_handler("grpc.health.v1.Health", health)]
    if knows_identity:
        methods = {
            "CheckAlive": grpc.unary_unary_rpc_method_handler(alive),
            "GetClusterId": grpc.unary_unary_rpc_method_handler(identity),
        }
        handlers.append(grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", methods))
    server.add_generic_rpc_handlers(tuple(handlers))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
