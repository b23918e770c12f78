"""The light probe while down: tells once that the cluster is back, and never storms it.

Called by the supervisor between attempts. Edge-triggered: it must see the address fail before it
believes that it is good again, so that a fault which lies deeper than it looks does not make it
fire for ever. It sends no token. A refused port costs no gRPC.
"""

import random
from typing import Final

import anyio

from castrayd.core.candidates import Address
from castrayd.core.policy import Deadlines
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType
from castrayd.probe.credentials import Credentials, Tls
from castrayd.probe.ladder import peer_of
from castrayd.probe.local_node import Raylet, scan, usable
from castrayd.probe.peer import Peer
from castrayd.probe.resolve import Endpoint, resolve
from castrayd.probe.tcp import connect

__all__ = ("wait_returned",)

EAGER_S: Final = 600.0
"""For so long it looks once a second; then ever less often, to five seconds."""
SPREAD_NODES_PER_S: Final = 200.0
"""So many hosts a second may come back to one head at once."""


async def wait_returned(  # noqa: PLR0913  what to probe, how, and how often
    address: Address,
    *,
    known_nodes: int,
    deadlines: Deadlines,
    tls: Tls | None,
    rng: random.Random,
    interval_s: float = 1.0,
    max_interval_s: float = 5.0,
) -> None:
    """Return when the address has been seen failing and then good; not before.

    Then waits U(0, known_nodes / 200) s, so that the hosts of a large cluster spread out.
    """
    began_s = anyio.current_time()
    failing = False
    while True:
        good = await _looks_good(address, tls, deadlines)
        if good and failing:
            break
        failing = failing or not good
        late = anyio.current_time() - began_s > EAGER_S
        interval_s = min(max_interval_s, interval_s * 1.5) if late else interval_s
        await anyio.sleep(interval_s * rng.uniform(0.9, 1.0))
    await anyio.sleep(rng.uniform(0.0, known_nodes / SPREAD_NODES_PER_S))


async def _looks_good(address: Address, tls: Tls | None, deadlines: Deadlines) -> bool:
    """Whether an attempt would come as far as the identity, and find a raylet here."""
    try:
        endpoints = await resolve(address, timeout_s=deadlines.resolve_s)
        endpoint = await connect(endpoints, timeout_s=deadlines.tcp_s)
        peer = peer_of(address.mode, endpoint, Credentials(tls=tls))
        try:
            await peer.check(deadlines.health_s)
            if address.mode is Mode.CLIENT:
                return True
            cluster_id = await _told(peer, deadlines)
        finally:
            await peer.close()
        return _has_local_node(await scan(), address, endpoint, cluster_id)
    except AttachError as error:
        return error.fault.type is ErrorType.AUTH_MISSING  # by Ray Client the ping needs a token


async def _told(peer: Peer, deadlines: Deadlines) -> str | None:
    """The cluster's id where it is told without a token: the old cluster's raylet may linger."""
    try:
        return await peer.cluster_id(deadlines.identity_s)
    except AttachError:
        return None


def _has_local_node(
    seen: list[Raylet], address: Address, endpoint: Endpoint, cluster_id: str | None
) -> bool:
    """Look once. Where the head keeps its id to itself the GCS address has to do."""
    names = {endpoint.target, f"{address.host}:{address.port}"}
    return any(usable(seen, cluster_id, name) is not None for name in names)
