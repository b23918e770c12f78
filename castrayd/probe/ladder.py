"""The ladder of probes that an attempt climbs before it spends a session: each rung timed.

By Ray Client it is shorter: the server tells neither version nor cluster before a client has
joined, and no raylet is needed here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio

from castrayd.core.candidates import Address
from castrayd.core.phases import PhaseClock
from castrayd.core.policy import Deadlines
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.client_server import ClientServer
from castrayd.probe.credentials import Credentials
from castrayd.probe.local_node import LocalNode, find_local_node, is_own
from castrayd.probe.peer import Identity, Peer
from castrayd.probe.resolve import Endpoint, resolve
from castrayd.probe.tcp import connect
from castrayd.probe.trust import is_trusted, listener_uids
from castrayd.threads import READS

__all__ = ("Climb", "Tell", "climb", "peer_of")

Tell = Callable[[Phase, Mapping[str, str | None]], None]
"""Is told what is seen on a rung as soon as it is, by name; None for what the peer keeps back."""


@dataclass(frozen=True, slots=True)
class Climb:
    """What was seen on the way up."""

    endpoint: Endpoint
    identity: Identity
    local_node: LocalNode | None
    """None by Ray Client."""


def _nobody(_phase: Phase, _seen: Mapping[str, str | None]) -> None:
    """Drop it: an attempt shows what it saw by its outcome."""


async def climb(  # noqa: PLR0913  what to climb, with what, and how
    address: Address,
    *,
    clock: PhaseClock,
    deadlines: Deadlines,
    credentials: Credentials,
    expect: Callable[[], Awaitable[str | None]],
    hearsay: bool = False,
    tell: Tell = _nobody,
) -> Climb:
    """Walk resolve, tcp, health, identity and local_node, each under its deadline.

    `expect` tells the Ray version of the session's interpreter, None where it is not known; its
    time is that of the identity. What is known by `hearsay` is shown no token before a raylet of
    ours vouches for it. `tell` hears of what is seen, also on a rung that breaks. Raises
    `AttachError` of that rung; leaves no channel open.
    """
    with clock.phase(Phase.RESOLVE):
        endpoints = await resolve(address, timeout_s=deadlines.resolve_s)
        tell(Phase.RESOLVE, {"addresses": ", ".join(one.target for one in endpoints)})
    with clock.phase(Phase.TCP):
        endpoint = await connect(endpoints, timeout_s=deadlines.tcp_s)
        tell(Phase.TCP, {"connected_to": endpoint.target})
    peer = peer_of(address.mode, endpoint, credentials)
    try:
        with clock.phase(Phase.HEALTH):
            await peer.check(deadlines.health_s)
            if hearsay:
                await _distrust_strangers(endpoint)
        if hearsay:
            with clock.phase(Phase.LOCAL_NODE):
                await find_local_node(
                    None, endpoint.target, timeout_s=deadlines.local_node_s, believed=True
                )
        if address.mode is Mode.CLIENT:
            return Climb(endpoint, Identity(None, None), None)
        with clock.phase(Phase.IDENTITY):
            identity = await peer.identity(deadlines.identity_s)
            told = {"cluster_id": identity.cluster_id, "ray_there": identity.ray_version}
            tell(Phase.IDENTITY, told)
            with anyio.move_on_after(deadlines.identity_s):
                here = await expect()
                tell(Phase.IDENTITY, {"ray_here": here})
                _same_version(identity, here)
    finally:
        await peer.close()
    with clock.phase(Phase.LOCAL_NODE):
        node = await find_local_node(
            identity.cluster_id, endpoint.target, timeout_s=deadlines.local_node_s
        )
        tell(Phase.LOCAL_NODE, {"raylet_pid": str(node.pid), "socket": node.socket})
    return Climb(endpoint, identity, node)


def peer_of(mode: Mode, endpoint: Endpoint, credentials: Credentials) -> Peer:
    """Return what answers there: a GCS, or a Ray Client server."""
    kind = ClientServer if mode is Mode.CLIENT else Peer
    return kind(endpoint, credentials)


async def _distrust_strangers(endpoint: Endpoint) -> None:
    """Refuse a port of this host that another user holds now: its head has ended meanwhile."""
    if not is_own(endpoint.ip):
        return
    uids = await READS.run(lambda: listener_uids(endpoint.port))
    strangers = [uid for uid in uids if not is_trusted(uid)]
    if strangers:
        message = f"{endpoint.target} is held by uid {strangers[0]}, who is not believed"
        raise AttachError(Fault.of(ErrorType.NOT_RAY, Phase.HEALTH, message))


def _same_version(identity: Identity, expect: str | None) -> None:
    theirs = identity.ray_version
    if theirs is None or expect is None or theirs == expect:
        return
    message = f"the cluster runs Ray {theirs}, the session would run Ray {expect}"
    raise AttachError(Fault.of(ErrorType.VERSION_MISMATCH, Phase.IDENTITY, message, code=theirs))
