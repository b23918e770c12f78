"""One gRPC peer: a GCS or a raylet, asked without joining.

`check` and `watch` speak the standard health protocol (github.com/grpc/grpc, doc/health-checking),
which Ray's servers answer without a token. `identity` asks two calls of Ray's own protocol; what
they do not answer is unknown, never a failure.
"""

import asyncio
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import anyio

from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.greeting import first_words
from castrayd.probe.grpc_library import grpc_aio, load_grpc
from castrayd.probe.protobuf import bytes_field, varint_field
from castrayd.probe.resolve import Endpoint

__all__ = ("Identity", "Peer", "load_grpc")

_CHECK: Final = "/grpc.health.v1.Health/Check"
_WATCH: Final = "/grpc.health.v1.Health/Watch"
_ALIVE: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLUSTER_ID: Final = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_SERVING: Final = 1

_OPTIONS: Final = (
    # a shared subchannel keeps its old backoff: a server that is back was seen 3.7 s late
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # also the least that a connection may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster answers; None for what it does not tell."""

    ray_version: str | None
    cluster_id: str | None
    """Hex."""


class Peer:
    """One channel to one endpoint. Use it from one task group, and close it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._channel: Any = None

    async def _open(self) -> Any:  # noqa: ANN401  grpc is untyped
        if self._channel is None:
            await load_grpc()
            self._channel = grpc_aio().aio.insecure_channel(self.endpoint.target, options=_OPTIONS)
        return self._channel

    async def close(self) -> None:
        """Close the channel; pending calls end. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with anyio.CancelScope(shield=True):
                await channel.close(None)

    async def _call(
        self, method: str, timeout_s: float, metadata: tuple[tuple[str, str], ...] = ()
    ) -> bytes:
        """Make one unary call with an empty request. Raises grpc's AioRpcError."""
        channel = await self._open()
        call = channel.unary_unary(method)(b"", timeout=timeout_s, metadata=metadata or None)
        try:
            answer: bytes = await call
        except asyncio.CancelledError:
            await _cancelled_by_us()
            message = f"{self.endpoint.target}: the channel was closed"
            raise AttachError(Fault.of(ErrorType.TCP_RESET, Phase.HEALTH, message)) from None
        return answer

    async def check(self, timeout_s: float) -> None:
        """Ask whether the server serves. Raises `AttachError` of phase health."""
        await self._open()
        try:
            answer = await self._call(_CHECK, timeout_s)
        except grpc_aio().aio.AioRpcError as error:
            raise AttachError(await self._health_fault(error, timeout_s)) from error
        if varint_field(answer, 1) != _SERVING:
            message = f"{self.endpoint.target} answers that it is not serving"
            raise AttachError(Fault.of(ErrorType.GCS_NOT_SERVING, Phase.HEALTH, message))

    async def _health_fault(self, error: Any, timeout_s: float) -> Fault:  # noqa: ANN401
        """Classify by status; where gRPC only says `unavailable`, listen to the port itself."""
        code, detail = error.code().name, error.details() or ""
        where = self.endpoint.target
        if code == "DEADLINE_EXCEEDED":
            message = f"{where} accepts connections and stays silent ({timeout_s} s)"
            return Fault.of(ErrorType.HEALTH_TIMEOUT, Phase.HEALTH, message, code=code)
        if code == "UNAVAILABLE":
            words = await first_words(self.endpoint, min(timeout_s, _LISTEN_S))
            text = words.text or detail
            return Fault.of(words.kind, Phase.HEALTH, f"{where}: {text}", code=code)
        kind = _HEALTH_CODES.get(code, ErrorType.NOT_RAY)
        return Fault.of(kind, Phase.HEALTH, f"{where}: {code}: {detail}", code=code)

    async def identity(self, token: str | None, timeout_s: float) -> Identity:
        """Ask for Ray's version and the cluster's id.

        Raises `AttachError` (`auth_missing`, `auth_rejected`, or what the transport says).
        """
        await self._open()
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        alive = await self._ask(_ALIVE, metadata, token, timeout_s)
        cluster = await self._ask(_CLUSTER_ID, metadata, token, timeout_s)
        version, cluster_id = bytes_field(alive, 2), bytes_field(cluster, 2)
        return Identity(
            version.decode(errors="replace") if version else None,
            cluster_id.hex() if cluster_id else None,
        )

    async def _ask(
        self,
        method: str,
        metadata: tuple[tuple[str, str], ...],
        token: str | None,
        timeout_s: float,
    ) -> bytes:
        """Make one call of Ray's own protocol; an answer that says nothing is empty."""
        try:
            return await self._call(method, timeout_s, metadata)
        except grpc_aio().aio.AioRpcError as error:
            code = error.code().name
            if code == "UNAUTHENTICATED":
                raise AttachError(self._auth_fault(token, error.details() or "")) from error
            if code == "UNAVAILABLE":
                raise AttachError(await self._health_fault(error, timeout_s)) from error
            return b""

    def _auth_fault(self, token: str | None, detail: str) -> Fault:
        kind = ErrorType.AUTH_REJECTED if token else ErrorType.AUTH_MISSING
        message = f"{self.endpoint.target}: {detail}"
        return Fault.of(kind, Phase.IDENTITY, message, code="UNAUTHENTICATED")

    async def watch(self, established: anyio.Event) -> str:
        """Follow the server's health until the stream breaks or says not serving; returns why.

        Sets `established` at the first good answer. A server without the call never breaks it:
        then this sleeps until it is cancelled, and the timed checks alone tell.
        """
        channel = await self._open()
        call = channel.unary_stream(_WATCH)(b"", wait_for_ready=False)
        try:
            async for answer in call:
                if varint_field(answer, 1) != _SERVING:
                    return "answers that it is not serving"
                established.set()
        except asyncio.CancelledError:
            await _cancelled_by_us()
            return "the channel was closed"
        except grpc_aio().aio.AioRpcError as error:
            if error.code().name == "UNIMPLEMENTED":
                await anyio.sleep_forever()
            return f"{error.code().name}: {error.details()}"
        finally:
            call.cancel()
        return "the stream ended"


async def _cancelled_by_us() -> None:
    """Raise anyio's own cancellation in the place of gRPC's, when it was we who cancelled.

    grpc.aio swallows the cancellation that it is given and raises a fresh one. anyio does not know
    that one as its own: it passes through the scope that was cancelled, and ends the whole task
    group around it without a word.
    """
    if anyio.current_effective_deadline() == -math.inf:
        await anyio.sleep_forever()


_LISTEN_S: Final = 0.5
_HEALTH_CODES: Final = MappingProxyType(
    {
        "UNIMPLEMENTED": ErrorType.NOT_RAY,
        "UNAUTHENTICATED": ErrorType.AUTH_MISSING,
        "CANCELLED": ErrorType.TCP_RESET,
        "NOT_FOUND": ErrorType.GCS_NOT_SERVING,
    }
)
