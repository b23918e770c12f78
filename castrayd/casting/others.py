"""The casting nodes of other daemons: asked beside everything else, so that nobody waits for one.

Who needs to know reads what was said last. A node that is silent is known no more, until it speaks.
While nobody needs to know nobody is asked, for on each of many hosts a daemon would ask all others.
"""

import contextlib
import re
from collections.abc import Container, Iterable, Mapping
from itertools import islice
from time import monotonic
from typing import Any, Final

import anyio
import structlog

from castrayd.casting.link import NAME, Link
from castrayd.refusals import ApiError, RecipientError
from castrayd.supervisor.attachment import Attachment

__all__ = ("Others",)

LOOK_S: Final = 2.0
NEEDED_S: Final = 60.0
"""For so long after somebody needed to know it is looked again and again."""
FRESH_S: Final = 10.0
"""Older than this, a look is waited for: at the new ones, of which one may be silent."""
AT_ONCE: Final = 20
"""Asked at one look, beside those that are new: with many nodes each is asked more seldom. Also
how many are asked side by side."""
_NAME: Final = re.compile(NAME)

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
        self._needed_s = float("-inf")
        self._looked_s = float("-inf")
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
                    if monotonic() - self._needed_s < NEEDED_S:
                        await self._look(AT_ONCE)
            except Exception as error:
                log.error("a look at others' casting nodes failed by a bug", exc_info=error)
            await anyio.sleep(LOOK_S)

    async def filled(self) -> None:
        """Wait for a first look by this attachment, or after a long time, and share it."""
        attachment, before = self._link.find(), self._looks
        self._needed_s = monotonic()
        if self._attachment is attachment and self._needed_s - self._looked_s < FRESH_S:
            return
        async with self._turn:
            if self._looks == before or self._looked is not attachment:
                await self._look(0)

    async def _look(self, again: int) -> None:
        """Ask all that are new, and so many of the others."""
        attachment = self._link.find()
        if attachment is None or attachment is not self._attachment:
            self._known, self._asked, self._attachment = {}, {}, None
        if attachment is not None:
            with contextlib.suppress(RecipientError, ApiError):
                await self._learn(await self._link.names(), again)
                self._attachment = attachment
        self._looks, self._looked_s = self._looks + 1, monotonic()
        self._looked = attachment

    async def _learn(self, names: Iterable[str], count: int) -> None:
        """Ask those that are new, and so many of the rest in turn; forget who is gone."""
        there = {name for name in names if name not in self._own and _NAME.fullmatch(name)}
        for name in self._asked.keys() - there:
            del self._asked[name]
            self._known.pop(name, None)
        again = list(islice(self._asked, count))
        limit = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for name in (*again, *sorted(there - self._asked.keys())):
                self._asked.pop(name, None)
                self._asked[name] = None
                tasks.start_soon(self._hear, name, limit)

    async def _hear(self, name: str, limit: anyio.CapacityLimiter) -> None:
        async with limit:
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
