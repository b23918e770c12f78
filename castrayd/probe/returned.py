"""The light probe while down: tells once that the cluster is back, and never storms it.

Edge-triggered: it must see the address fail before it believes that it is good again, so that a
fault which lies deeper than it looks does not make it fire for ever. It sends no token.
"""

import random
from typing import Final

import anyio

from castrayd.core.candidates import Address
from castrayd.core.policy import Deadlines
from castrayd.errors import AttachError
from castrayd.probe.local_node import Raylet, scan, usable
from castrayd.probe.peer import Peer
from castrayd.probe.resolve import resolve
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
        good = await _looks_good(address, deadlines)
        if good and failing:
            break
        failing = failing or not good
        late = anyio.current_time() - began_s > EAGER_S
        interval_s = min(max_interval_s, interval_s * 1.5) if late else interval_s
        await anyio.sleep(interval_s * rng.uniform(0.9, 1.0))
    await anyio.sleep(rng.uniform(0.0, known_nodes / SPREAD_NODES_PER_S))


async def _looks_good(address: Address, deadlines: Deadlines) -> bool:
    """Whether an attempt would come as far as the identity, and find a raylet here."""
    try:
        endpoints = await resolve(address, timeout_s=deadlines.resolve_s)
        endpoint = await connect(endpoints, timeout_s=deadlines.tcp_s)
        peer = Peer(endpoint)
        try:
            await peer.check(deadlines.health_s)
        finally:
            await peer.close()
        return _has_local_node(await scan(), address, endpoint.target)
    except AttachError:
        return False


def _has_local_node(seen: list[Raylet], address: Address, target: str) -> bool:
    """Look once, without a token and so without the cluster's id: the GCS address has to do."""
    names = {target, f"{address.host}:{address.port}"}
    port = f":{address.port}"
    for raylet in seen:
        here = raylet.gcs_address in names or raylet.gcs_address.endswith(port)
        if here and usable([raylet], raylet.cluster_id, raylet.gcs_address) is not None:
            return True
    return False
