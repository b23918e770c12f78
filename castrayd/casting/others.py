"""The casting nodes of other daemons: asked beside everything else, so that nobody waits for one.

Who needs to know reads what was said last. A node that is silent is known no more, until it speaks.
"""

import contextlib
from collections.abc import Container, Iterable, Mapping
from itertools import islice
from typing import Any, Final

import anyio
import structlog

from castrayd.casting.link import HIDDEN, Link
from castrayd.refusals import ApiError, RecipientError
from castrayd.supervisor.attachment import Attachment

__all__ = ("Others",)

LOOK_S: Final = 2.0
AT_ONCE: Final = 20
"""Asked at one look, beside those that are new: with many nodes each is asked more seldom."""

Facts = Mapping[str, Any]
log = structlog.get_logger("castrayd.casting")


class Others:
    """What casting nodes say of themselves that this daemon does not look after."""

    def __init__(self, link: Link, own: Container[str]) -> None:
        """`own` are the names of those that it does look after."""
        self._link = link
        self._own = own
        self._known: dict[str, Facts] = {}
        self._asked: dict[str, None] = {}
        """Who was asked, whoever it was longest ago first."""
        self._attachment: Attachment | None = None
        """By which `_known` was learnt."""
        self._turn = anyio.Lock()
        self._looks = 0
        self._looked: Attachment | None = None
        """By which the last look was, whether it succeeded or not."""

    @property
    def known(self) -> Mapping[str, Facts]:
        """What each has said last, by name; none by another attachment than this one."""
        return self._known if self._attachment is self._link.find() else {}

    async def run(self) -> None:
        """Learn who is there, again and again, until cancelled."""
        while True:
            try:
                async with self._turn:
                    await self._look()
            except Exception as error:
                log.error("a look at others' casting nodes failed by a bug", exc_info=error)
            await anyio.sleep(LOOK_S)

    async def filled(self) -> None:
        """Wait for a first look by this attachment, and share it; it is not waited for again."""
        attachment, before = self._link.find(), self._looks
        if self._attachment is attachment:
            return
        async with self._turn:
            if self._looks == before or self._looked is not attachment:
                await self._look()

    async def _look(self) -> None:
        attachment = self._link.find()
        if attachment is None or attachment is not self._attachment:
            self._known, self._asked, self._attachment = {}, {}, None
        if attachment is not None:
            with contextlib.suppress(RecipientError, ApiError):
                await self._learn(await self._link.names())
                self._attachment = attachment
        self._looks += 1
        self._looked = attachment

    async def _learn(self, names: Iterable[str]) -> None:
        """Ask those that are new, and some of the rest in turn; forget who is gone."""
        there = {name for name in names if name not in self._own and not name.startswith(HIDDEN)}
        for name in self._asked.keys() - there:
            del self._asked[name]
            self._known.pop(name, None)
        again = list(islice(self._asked, AT_ONCE))
        async with anyio.create_task_group() as tasks:
            for name in (*again, *sorted(there - self._asked.keys())):
                self._asked.pop(name, None)
                self._asked[name] = None
                tasks.start_soon(self._hear, name)

    async def _hear(self, name: str) -> None:
        facts = await self.ask(name)
        if facts is None:
            self._known.pop(name, None)
        else:
            self._known[name] = facts

    async def ask(self, name: str) -> Facts | None:
        """Return what a node says of itself now, whosever it is; None where none answers."""
        with contextlib.suppress(RecipientError, ApiError):
            return await self._link.describe(name)
        return None

    async def owner_of(self, name: str) -> str | None:
        """Return who owns a node of that name, also when we do; None where none answers."""
        facts = await self.ask(name)
        return None if facts is None else str(facts["owner"])
