"""The object stores through which a transfer goes."""

from collections.abc import Collection
from typing import Final

import anyio

from castrayd.casting.link import Link
from castrayd.casting.plans import sizes
from castrayd.refusals import ApiError, RecipientError

__all__ = ("stores_of",)

ASK_S: Final = 1.0
FEW: Final = 64
"""As many are asked where they are; more may well be everywhere."""


async def stores_of(link: Link, names: Collection[str]) -> list[float]:
    """Return the bytes of the object stores of these casting nodes' hosts.

    They are of all hosts where that makes no difference, or where not every one says where it is.
    """
    found = {
        node.node_id: store
        for node in link.attachment().nodes.values()
        if node.alive and (store := node.resources.get("object_store_memory"))
    }
    everywhere = list(found.values())
    if sizes(everywhere, None) == sizes((), None) or len(names) > FEW:
        return everywhere
    places = await _places(link, names)
    if None in places:
        return everywhere
    return [found[place] for place in places if place in found]


async def _places(link: Link, names: Collection[str]) -> set[str | None]:
    """Return the Ray nodes of casting nodes; None among them for one that does not say."""
    places: set[str | None] = set()

    async def ask(name: str) -> None:
        try:
            described = await link.call(name, "describe", timeout_s=ASK_S)
        except (RecipientError, ApiError):
            places.add(None)
        else:
            places.add(described["node_id"])

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(ask, name)
    return places
