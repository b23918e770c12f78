"""The casting nodes of other daemons: asked beside everything else, so that nobody waits for one.

Who needs to know reads what was said last. A node that is silent is known no more, until it speaks.
"""

import contextlib
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import anyio
import structlog

from castrayd.casting.link import HIDDEN, Link
from castrayd.refusals import ApiError, RecipientError
from castrayd.supervisor.attachment import Attachment

__all__ = ("Others",)

LOOK_S: Final = 2.0
EACH_S: Final = 0.1
"""Between two questions on average: with many nodes each is asked more seldom."""

Facts = Mapping[str, Any]
log = structlog.get_logger("castrayd.casting")


class Others:
    """What casting nodes say of themselves that this daemon does not look after."""

    def __init__(self, link: Link, own: Container[str]) -> None:
        """`own` are the names of those that it does look after."""
        self._link = link
        self._own = own
        self._known: Mapping[str, Facts] = {}
        self._attachment: Attachment | None = None
        """By which `_known` was learnt."""
        self._turn = anyio.Lock()

    @property
    def known(self) -> Mapping[str, Facts]:
        """What each has said last, by name; none by another attachment than this one."""
        return self._known if self._attachment is self._link.find() else {}

    async def run(self) -> None:
        """Learn who is there, again and again, until cancelled."""
        while True:
            try:
                await self._learn()
            except Exception as error:
                log.error("a look at others' casting nodes failed by a bug", exc_info=error)
            await anyio.sleep(max(LOOK_S, EACH_S * len(self._known)))

    async def filled(self) -> None:
        """Wait for a first look by this attachment; it is not waited for again."""
        if self._attachment is not self._link.find():
            await self._learn(again=False)

    async def _learn(self, *, again: bool = True) -> None:
        """Ask all nodes; where another task is about it its answer will do, unless `again`."""
        async with self._turn:
            attachment = self._link.find()
            if not again and self._attachment is attachment:
                return
            if attachment is None:
                self._known, self._attachment = {}, None
                return
            with contextlib.suppress(RecipientError, ApiError):
                names = await self._link.names()
                self._known = await self._asked(
                    n for n in names if n not in self._own and not n.startswith(HIDDEN)
                )
                self._attachment = attachment

    async def _asked(self, names: Iterable[str]) -> dict[str, Facts]:
        """Return what those that answer say of themselves."""
        found: dict[str, Facts] = {}

        async def ask(name: str) -> None:
            facts = await self.ask(name)
            if facts is not None:
                found[name] = facts

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(ask, name)
        return found

    async def ask(self, name: str) -> Facts | None:
        """Return what a node says of itself now, whosever it is; None where none answers."""
        with contextlib.suppress(RecipientError, ApiError):
            return await self._link.describe(name)
        return None

    async def owner_of(self, name: str) -> str | None:
        """Return who owns a node of that name, also when we do; None where none answers."""
        facts = await self.ask(name)
        return None if facts is None else str(facts["owner"])
