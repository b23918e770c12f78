"""The phase `discover`: clusters that this host is part of already.

Called by an attempt that nothing is configured for. What is found here is sent the Ray token, so
only processes of root or of our own user are believed, and only those whose program is a raylet.
"""

import os

from castrayd.core.candidates import Candidate, candidate
from castrayd.probe.local_node import Raylet, scan

__all__ = ("discover",)


async def discover() -> tuple[Candidate, ...]:
    """Return the clusters of the raylets on this host, each once."""
    addresses = dict.fromkeys(
        raylet.gcs_address for raylet in await scan() if raylet.gcs_address and _believed(raylet)
    )
    return tuple(candidate(address, "discovery:raylet") for address in addresses)


def _believed(raylet: Raylet, proc: str = "/proc") -> bool:
    """Owner and command line are not enough: a stranger may run sudo and call it `raylet`.

    The program is the kernel's word, and readable for our own processes and for root. A raylet
    of root is hence not discovered by anybody else, who could not use its socket either.
    """
    if raylet.uid not in {0, os.geteuid()}:
        return False
    try:
        program = os.readlink(f"{proc}/{raylet.pid}/exe")  # noqa: PTH115  a Path adds nothing
    except OSError:
        return False
    return program.removesuffix(" (deleted)").rpartition("/")[2] == "raylet"
