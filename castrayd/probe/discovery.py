"""The phase `discover`: clusters that nobody has named by an address.

Called by an attempt after what is configured, and while it waits for the next. What is found
here is sent the Ray token, so only what root or our own user owns is believed: a process whose
program is a raylet, Ray's own note of the last cluster, a file of addresses, a name's records.
Nothing of it is taken for true: each is probed as a configured address would be, and what no
operator has named, a raylet's GCS or the note's, is hearsay: see `ladder.climb`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Final

import anyio

from castrayd.core.candidates import Address, Candidate, candidate, parse_address
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.local_node import scan
from castrayd.probe.resolve import resolve
from castrayd.probe.trust import DistrustedError, read_trusted
from castrayd.threads import READS

__all__ = ("CURRENT_CLUSTER", "KINDS", "Discovery", "discover")

KINDS: Final = ("raylet", "ray_current_cluster", "file", "dns")
"""What can be looked at, in the order in which the findings are tried."""

CURRENT_CLUSTER: Final = "discovery:ray_current_cluster"
FILE_ADDRESSES: Final = 64
"""Of a file; each costs a probe a second while the daemon is disconnected."""
_RESOLVER_SHARE: Final = 0.9
"""Of the phase: a resolver that hangs is told by its own fault, before the phase ends."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where to look."""

    kinds: tuple[str, ...] = KINDS
    temp_dir: str = "/tmp/ray"  # noqa: S108  Ray's own
    """Ray's folder on this host; holds its note of the cluster that was started here last."""
    addresses_file: str | None = None
    dns_name: str | None = None
    """`name:port`, each address of the name a candidate of its own."""


async def discover(where: Discovery, timeout_s: float) -> tuple[Candidate, ...]:
    """Return what is found within the time, each place once.

    A kind that cannot tell, or hangs, is a candidate without an address, which says why: that
    nothing was found is not the same as that nothing is there.
    """
    found: dict[str, tuple[Candidate, ...]] = {}

    async def look(kind: str) -> None:
        found[kind] = await _FINDERS[kind](where, timeout_s)

    with anyio.move_on_after(timeout_s):
        async with anyio.create_task_group() as tasks:
            for kind in where.kinds:
                tasks.start_soon(look, kind, name=f"discover-{kind}")
    every = [
        one
        for kind in KINDS
        if kind in where.kinds
        for one in found.get(kind, (_unanswered(kind, timeout_s),))
    ]
    unique: dict[Address | str, Candidate] = {}
    for one in every:
        unique.setdefault(one.address or one.text, one)
    return tuple(unique.values())


def _unanswered(kind: str, timeout_s: float) -> Candidate:
    message = f"discovery by {kind} did not answer within {timeout_s} s"
    fault = Fault.of(ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER, message)
    return Candidate(kind, f"discovery:{kind}", None, fault)


async def _raylets(_where: Discovery, _timeout_s: float) -> tuple[Candidate, ...]:
    """The clusters that this host is part of."""
    addresses = dict.fromkeys(
        raylet.gcs_address for raylet in await scan() if raylet.gcs_address and raylet.believed
    )
    return tuple(_heard(address, "discovery:raylet") for address in addresses)


def _heard(text: str, source: str) -> Candidate:
    return replace(candidate(text, source), hearsay=True)


async def _current_cluster(where: Discovery, _timeout_s: float) -> tuple[Candidate, ...]:
    """Ray's note of the cluster started here last. Anybody may write to its folder."""
    try:
        # no thread for it: a small file of this host's, and a failed attempt takes milliseconds
        text = read_trusted(f"{where.temp_dir}/ray_current_cluster", follow=False)
    except DistrustedError:
        return ()
    text = (text or "").strip()
    return (_heard(text, CURRENT_CLUSTER),) if text and "://" not in text else ()


async def _file(where: Discovery, _timeout_s: float) -> tuple[Candidate, ...]:
    """One address a line; a `#` begins a comment. A missing file may come yet."""
    path, source = where.addresses_file, "discovery:file"
    if path is None:
        return ()
    try:
        text = await READS.run(lambda: read_trusted(path, follow=True))
    except DistrustedError as error:
        fault = Fault.of(ErrorType.CONFIG_INVALID, Phase.DISCOVER, f"not believed: {error}")
        return (Candidate(path, source, None, fault),)
    lines = (line.partition("#")[0].strip() for line in (text or "").splitlines())
    return tuple(candidate(line, source) for line in islice(filter(None, lines), FILE_ADDRESSES))


async def _dns(where: Discovery, timeout_s: float) -> tuple[Candidate, ...]:
    """Each address that the name has now."""
    name, source = where.dns_name, "discovery:dns"
    if name is None:
        return ()
    try:
        address = parse_address(name)
        endpoints = await resolve(address, timeout_s=timeout_s * _RESOLVER_SHARE)
    except AttachError as error:
        return (Candidate(name, source, None, error.fault),)
    scheme = "ray://" if address.mode is Mode.CLIENT else ""
    return tuple(candidate(f"{scheme}{endpoint.target}", source) for endpoint in endpoints)


_FINDERS: Final = MappingProxyType[
    str, Callable[[Discovery, float], Awaitable[tuple[Candidate, ...]]]
](
    {
        "raylet": _raylets,
        "ray_current_cluster": _current_cluster,
        "file": _file,
        "dns": _dns,
    }
)
