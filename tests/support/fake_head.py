"""A head that answers the probes as it is told: for what no real head here can be made to say."""

import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio

__all__ = ("fake_head",)


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def _certificate() -> tuple[bytes, bytes]:
    """Return a new key and its own certificate, PEM."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key"), Path(folder, "certificate")
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=head -keyout"
        subprocess.run(
            [*command.split(), key, "-out", certificate], check=True, capture_output=True
        )
        return key.read_bytes(), certificate.read_bytes()


@asynccontextmanager
async def fake_head(
    *,
    version: str = "2.60.0",
    cluster_id: bytes = b"c" * 28,
    serving: int = 1,
    token: str | None = None,
    knows_identity: bool = True,
    tls: bool = False,
    heard: Callable[[str], object] = str,
    echoes: bool = False,
) -> AsyncIterator[str]:
    """Serve health and identity on loopback; with `tls` as a head under RAY_USE_TLS does."""

    async def check(_request: bytes, _context: Any) -> bytes:
        return bytes([8, serving])

    async def watch(_request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield bytes([8, serving])
        while not context.cancelled():
            await anyio.sleep(0.05)

    async def _admit(context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        heard(metadata.get("authorization", ""))
        if token is not None and metadata.get("authorization") != f"Bearer {token}":
            detail = "InvalidAuthToken: Authentication token is missing or incorrect"
            detail += f"; you sent {metadata.get('authorization')}" if echoes else ""
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
    anywhere = "127.0.0.1:0"
    if tls:
        port = server.add_secure_port(anywhere, grpc.ssl_server_credentials([_certificate()]))
    else:
        port = server.add_insecure_port(anywhere)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
