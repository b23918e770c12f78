"""The Ray Client server of a head, asked without opening a client.

Used by `ladder`, `returned` and `attached` for `ray://`. It knows neither gRPC's health protocol
nor the identity calls; the one call that it answers itself is the ping of its own protocol. A
server that lacks that call is something else: most often the GCS's port, given by mistake.
"""

import anyio

from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.peer import Identity, Peer

__all__ = ("ClientServer",)

_CLUSTER_INFO = "/ray.rpc.RayletDriver/ClusterInfo"
_PING = b"\x08\x06"
"""ClusterInfoRequest with type PING. Source: Ray's ray_client.proto."""


class ClientServer(Peer):
    """One channel to a Ray Client server; it says less of itself than a GCS."""

    async def check(self, timeout_s: float) -> None:
        """Ping the server. Raises `AttachError`: `client_server_unavailable`, else as `Peer`."""
        try:
            await self.call(_CLUSTER_INFO, _PING, timeout_s)
        except AttachError as error:
            fault = error.fault
            if fault.code != "UNIMPLEMENTED":
                raise
            message = f"{self.endpoint.target} speaks gRPC, but is no Ray Client server"
            kind = ErrorType.CLIENT_SERVER_UNAVAILABLE
            raise AttachError(Fault.of(kind, Phase.HEALTH, message, code=fault.code)) from error

    async def identity(self, timeout_s: float) -> Identity:  # noqa: ARG002
        """Tell nothing: the server does not know it before a client has joined."""
        return Identity(None, None)

    async def cluster_id(self, timeout_s: float) -> None:  # noqa: ARG002
        """Tell nothing, as `identity`."""
        return

    async def watch(self, established: anyio.Event) -> str:  # noqa: ARG002
        """Tell nothing: it has no stream to hold. Sleeps until it is cancelled."""
        await anyio.sleep_forever()
        raise AssertionError  # pragma: no cover
