"""The phase `discover`: clusters that this host is part of already.

Believes only processes owned by root or by our own user: anybody may call a process a raylet.
"""

import os

from castrayd.core.candidates import Candidate, candidate
from castrayd.probe.local_node import scan

__all__ = ("discover",)


async def discover() -> tuple[Candidate, ...]:
    """Return the clusters of the raylets on this host, each once."""
    trusted = {0, os.geteuid()}
    addresses = dict.fromkeys(
        raylet.gcs_address
        for raylet in await scan()
        if raylet.uid in trusted and raylet.gcs_address
    )
    return tuple(candidate(address, "discovery:raylet") for address in addresses)
