"""One gRPC peer: a GCS or a raylet, asked without joining.

Used by `ladder`, `returned` and `attached`. `check` and `watch` speak the standard health protocol
(github.com/grpc/grpc, doc/health-checking), which Ray's servers answer without a token. `identity`
and `cluster_id` ask two calls of Ray's own protocol, which is no promise: what is not implemented
or cannot be read is unknown, never a failure. Classes follow from gRPC's status and from the
port's own bytes (`greeting`), never from the words of an error.
"""

import asyncio
import math
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import anyio

from castrayd.errors import AttachError, ErrorType, Fault, Phase, redacted
from castrayd.probe.credentials import Credentials
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
    ("grpc.max_reconnect_backoff_ms", 500),
    # in truth the deadline of one try to connect, up to the peer's SETTINGS: with 100 ms a head
    # that is 240 ms away is never reached; it does not delay the next try
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 65536),
)

NOTHING: Final = Credentials()
_LISTEN_S: Final = 0.5
_CLOSE_S: Final = 1.0
_VERSION: Final = re.compile(rb"[0-9A-Za-z.+!_-]{1,64}")
"""A version by PEP 440: what a stranger sends goes into logs and onto terminals."""
_TOKEN: Final = re.compile(r"[\x20-\x7e]+")
"""What may travel in a header; gRPC fails on anything else with an error of its own."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster answers; None for what it does not tell."""

    ray_version: str | None
    cluster_id: str | None
    """Hex."""


class Peer:
    """One channel to one endpoint, for all calls. Close it; closed, it stays closed."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials = NOTHING) -> None:
        self.endpoint = endpoint
        self.credentials = credentials
        self._channel: Any = None
        self._closed = False

    async def _open(self) -> Any:  # noqa: ANN401  grpc is untyped
        if self._channel is None:
            await load_grpc()
        if self._closed:
            message = f"{self.endpoint.target}: this probe has ended"
            raise AttachError(Fault.of(ErrorType.TCP_RESET, Phase.HEALTH, message))
        if self._channel is None:  # looked at after the wait: of two first calls one makes it
            self._channel = self._connect()
        return self._channel

    def _connect(self) -> Any:  # noqa: ANN401  grpc is untyped
        grpc, target, tls = grpc_aio(), self.endpoint.target, self.credentials.tls
        if tls is None:
            return grpc.aio.insecure_channel(target, options=_OPTIONS)
        ca, key, certificate = tls.read()
        secret = grpc.ssl_channel_credentials(ca, key, certificate)
        # a name was resolved by us, and it is the name that the certificate speaks of
        named = (("grpc.ssl_target_name_override", self.endpoint.name),)
        options = _OPTIONS + named if self.endpoint.name else _OPTIONS
        return grpc.aio.secure_channel(target, secret, options=options)

    async def close(self) -> None:
        """Close the channel; pending calls end. Idempotent, safe under cancellation."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await channel.close(None)

    async def check(self, timeout_s: float) -> None:
        """Ask whether the server serves. Raises `AttachError` of phase health.

        It is one of `health_timeout`, `not_ray`, `gcs_not_serving`, `tls_failure`, `tcp_reset`.
        """
        answer = await self.call(_CHECK, b"", timeout_s, with_token=False)
        if varint_field(answer, 1) != _SERVING:
            message = f"{self.endpoint.target} answers that it is not serving"
            raise AttachError(Fault.of(ErrorType.GCS_NOT_SERVING, Phase.HEALTH, message))

    async def call(
        self, method: str, request: bytes, timeout_s: float, *, with_token: bool = True
    ) -> bytes:
        """Make one call; returns the answer's bytes. Raises `AttachError`, with gRPC's code."""
        channel, metadata = await self._open(), self._metadata() if with_token else None
        deadline_s = anyio.current_time() + timeout_s
        call = channel.unary_unary(method)(request, timeout=timeout_s, metadata=metadata)
        try:
            return await self._result(call)
        except grpc_aio().aio.AioRpcError as error:
            raise AttachError(await self._fault(error, deadline_s)) from error

    def _metadata(self) -> tuple[tuple[str, str], ...] | None:
        token = self.credentials.token
        if token is not None and not _TOKEN.fullmatch(token):
            raise AttachError(self._auth_fault("the token holds what no header can carry"))
        return (("authorization", f"Bearer {token}"),) if token else None

    async def _fault(self, error: Any, deadline_s: float) -> Fault:  # noqa: ANN401
        if error.code().name == "UNAUTHENTICATED":
            return self._auth_fault(_details(error))
        return await self._health_fault(error, deadline_s)

    async def _health_fault(self, error: Any, deadline_s: float) -> Fault:  # noqa: ANN401
        """Classify by status; where gRPC only says `unavailable`, listen to the port itself."""
        code, where = error.code().name, self.endpoint.target
        kind, said = _HEALTH_CODES.get(code, ErrorType.NOT_RAY), f"{code}: {_details(error)}"
        left_s = deadline_s - anyio.current_time()
        if code == "UNAVAILABLE" and left_s > 0:
            words = await first_words(self.endpoint, self.credentials.tls, min(left_s, _LISTEN_S))
            kind, said = words.kind, words.text
        elif kind is ErrorType.HEALTH_TIMEOUT:
            said = "does not answer in time"
        said = self._clean(said)
        hint = _CLIENT_HINT if code == "UNIMPLEMENTED" else None
        return Fault.of(kind, Phase.HEALTH, f"{where}: {said}", code=code, hint=hint)

    async def identity(self, timeout_s: float) -> Identity:
        """Ask for Ray's version and the cluster's id, both at once; silence is unknown too.

        Raises `AttachError` (`auth_missing`, `auth_rejected`, or what the transport says).
        """
        version, cluster_id = await self._ask((_ALIVE, _CLUSTER_ID), timeout_s)
        return Identity(_version(version), _hex(cluster_id))

    async def cluster_id(self, timeout_s: float) -> str | None:
        """Ask for the cluster's id, hex; None where the peer has no such call, or answers garbage.

        Raises `AttachError` as `identity` does, and `health_timeout` for silence: who asks
        whether a cluster is still the same must not take silence for yes.
        """
        (answer,) = await self._ask((_CLUSTER_ID,), timeout_s, patient=False)
        return _hex(answer)

    async def _ask(
        self, methods: tuple[str, ...], timeout_s: float, *, patient: bool = True
    ) -> list[bytes]:
        """Make calls of Ray's own protocol side by side; an unknown answer is empty."""
        channel, metadata = await self._open(), self._metadata()
        deadline_s = anyio.current_time() + timeout_s
        calls = [channel.unary_unary(m)(b"", timeout=timeout_s, metadata=metadata) for m in methods]
        try:
            return [await self._answer(call, deadline_s, patient=patient) for call in calls]
        finally:
            for call in calls:
                call.cancel()

    async def _answer(self, call: Any, deadline_s: float, *, patient: bool) -> bytes:  # noqa: ANN401
        try:
            return await self._result(call)
        except grpc_aio().aio.AioRpcError as error:
            code = error.code().name
            told = code in {"UNAUTHENTICATED", "UNAVAILABLE"}
            if told or (not patient and code != "UNIMPLEMENTED"):
                raise AttachError(await self._fault(error, deadline_s)) from error
            return b""

    async def _result(self, call: Any) -> bytes:  # noqa: ANN401  grpc is untyped
        """Await a unary call. Raises grpc's AioRpcError, or `AttachError` when it was closed."""
        try:
            answer: bytes = await call
        except asyncio.CancelledError:
            await _cancelled_by_us()
            message = f"{self.endpoint.target}: the channel was closed"
            raise AttachError(Fault.of(ErrorType.TCP_RESET, Phase.HEALTH, message)) from None
        return answer

    def _auth_fault(self, detail: str) -> Fault:
        kind = ErrorType.AUTH_REJECTED if self.credentials.token else ErrorType.AUTH_MISSING
        source = f" (token: {self.credentials.source})" if self.credentials.source else ""
        message = f"{self.endpoint.target}: {self._clean(detail)}{source}"
        return Fault.of(kind, Phase.IDENTITY, message, code="UNAUTHENTICATED")

    def _clean(self, said: str) -> str:
        return redacted(said, self.credentials.token)

    async def watch(self, established: anyio.Event) -> str:
        """Follow the server's health until the stream breaks or says not serving; returns why.

        Sets `established` at the first good answer. A server without the call never breaks it:
        then this sleeps until it is cancelled, and the timed checks alone tell.
        """
        channel = await self._open()
        call = channel.unary_stream(_WATCH)(b"")
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
            return self._clean(f"{error.code().name}: {_details(error)}")
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


def _version(message: bytes) -> str | None:
    value = bytes_field(message, 2)
    return value.decode() if value and _VERSION.fullmatch(value) else None


def _hex(message: bytes) -> str | None:
    value = bytes_field(message, 2)
    return value.hex() if value else None


def _details(error: Any) -> str:  # noqa: ANN401  grpc is untyped
    """What the peer says, for people to read: without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in error.details() or "")


_CLIENT_HINT: Final = (
    "Use the GCS port (6379 by default); a Ray Client port (10001) is written ray://HOST:PORT."
)
"""For what speaks gRPC and knows no health protocol: most often the Ray Client server."""

_HEALTH_CODES: Final = MappingProxyType(
    {
        "DEADLINE_EXCEEDED": ErrorType.HEALTH_TIMEOUT,
        "UNAVAILABLE": ErrorType.HEALTH_TIMEOUT,  # with no time left to look any closer
        "CANCELLED": ErrorType.TCP_RESET,
        "NOT_FOUND": ErrorType.GCS_NOT_SERVING,
        "RESOURCE_EXHAUSTED": ErrorType.GCS_NOT_SERVING,
    }
)
