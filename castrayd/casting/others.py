"""The casting nodes of other daemons: known by asking the cluster, for a moment."""

import contextlib
from collections.abc import Container, Iterable, Mapping
from time import monotonic
from typing import Any, Final

import anyio

from castrayd.casting.link import Link
from castrayd.casting.uploads import HIDDEN
from castrayd.refusals import ApiError, RecipientError

__all__ = ("Others",)

FRESH_S: Final = 2.0
"""How old what is known of others' nodes may be."""


class Others:
    """What others' nodes say of themselves."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.known: Mapping[str, Mapping[str, Any]] = {}
        """By name, as of the last time that was asked."""
        self._learnt_s = float("-inf")

    def forget(self) -> None:
        """Know none: the attachment is another one."""
        self.known, self._learnt_s = {}, float("-inf")

    async def learn(self, own: Container[str]) -> None:
        """Ask for all nodes that are not our own, unless that was done a moment ago."""
        if self._link.find() is None or monotonic() - self._learnt_s < FRESH_S:
            return
        with contextlib.suppress(RecipientError, ApiError):
            names = await self._link.names()
            self.known = await self._ask(
                name for name in names if name not in own and not name.startswith(HIDDEN)
            )
            self._learnt_s = monotonic()

    async def _ask(self, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Return what those that answer say of themselves."""
        found: dict[str, Mapping[str, Any]] = {}

        async def ask(name: str) -> None:
            with contextlib.suppress(RecipientError, ApiError):
                found[name] = await self._link.describe(name)

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(ask, name)
        return found

    async def owner_of(self, name: str) -> str | None:
        """Return who owns a node of that name, also when we do; None where none answers."""
        try:
            described = await self._link.describe(name)
        except (RecipientError, ApiError):
            return None
        return str(described["owner"])
