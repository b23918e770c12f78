"""Reasons to begin an attempt before its time: looked for while waiting, and while attached.

Run by `perform` for one order of the core, which says what to look for. Every cue is an edge: it
must not be there when the look begins, or an attempt that fails would be begun again at once.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import anyio
import structlog

from castrayd.core.candidates import Address, Candidate
from castrayd.core.commands import WatchCues
from castrayd.core.phases import RETURNABLE, PhaseClock
from castrayd.core.states import Mode, Trigger
from castrayd.errors import AttachError
from castrayd.probe.credentials import Tls
from castrayd.probe.discovery import discover
from castrayd.probe.ladder import Climb, climb
from castrayd.probe.returned import wait_returned
from castrayd.supervisor.attachment import Attachment
from castrayd.supervisor.connection import NO_TOKEN, Connection
from castrayd.supervisor.trial import Trial

__all__ = ("Cues",)

log = structlog.get_logger("castrayd.supervisor")

LOOK_S: Final = 2.0
"""Between two looks for new or preferred candidates."""
TOKEN_S: Final = 0.5
"""Between two looks at the token's file."""
QUICK_S: Final = 0.5
"""For a raylet of a preferred cluster: one that is to be used lives already."""


@dataclass(frozen=True, slots=True)
class Cues:
    """What there is to compare with: the last attempt, and what it led to."""

    connection: Callable[[], Connection]
    """Asked anew at each look, for a reload does not end the look."""
    trials: tuple[Trial, ...]
    lost: Candidate | None
    """What was attached last, where that has been lost."""
    ray_version: Callable[[Connection], Awaitable[str | None]]
    """Of the session's interpreter; None where it cannot be told."""
    attachment: Attachment | None
    known_nodes: int
    busy: Callable[[], Sequence[str]]
    """What runs on the attached cluster and would be lost by a move to another one."""
    rng: random.Random

    async def wait(self, order: WatchCues) -> Trigger:
        """Return the first cue of those ordered."""
        seen: list[Trigger] = []
        async with anyio.create_task_group() as tasks:

            async def look(kind: Trigger) -> None:
                await self._look(kind, order)
                seen.append(kind)
                tasks.cancel_scope.cancel()

            for kind in order.kinds:
                tasks.start_soon(look, kind, name=f"cue-{kind}")
        return seen[0]

    async def _look(self, kind: Trigger, order: WatchCues) -> None:
        match kind:
            case Trigger.CLUSTER_RETURNED:
                await self._returned()
            case Trigger.DISCOVERY:
                await self._found()
            case Trigger.CREDENTIALS_CHANGED:
                await self._token_changed()
            case Trigger.FAILBACK:
                await self._preferred(order)
            case _:
                raise AssertionError(kind)

    async def _returned(self) -> None:
        """Wait until a candidate that was out of reach is seen good."""
        async with anyio.create_task_group() as tasks:

            async def look(address: Address) -> None:
                await wait_returned(
                    address,
                    known_nodes=self.known_nodes,
                    deadlines=self.connection().deadlines,
                    tls=self._tls(),
                    rng=self.rng,
                )
                tasks.cancel_scope.cancel()

            for address in self._out_of_reach():
                tasks.start_soon(look, address, name=f"returned-{address.url}")
            tasks.start_soon(anyio.sleep_forever)

    def _out_of_reach(self) -> list[Address]:
        """The candidates that failed where a light probe can see that it is mended.

        After a loss that which was attached is one too, and has no fault of its own.
        """
        failed = [t.candidate for t in self.trials if t.fault and t.fault.phase in RETURNABLE]
        lost = [self.lost] if self.lost is not None else []
        addresses = [one.address for one in (*failed, *lost)]
        return [one for one in addresses if one is not None and one.mode is not Mode.LOCAL]

    def _tls(self) -> Tls | None:
        try:
            return self.connection().credentials(NO_TOKEN).tls
        except AttachError:
            return None

    async def _found(self) -> None:
        """Wait until there is a candidate that there was not."""
        known = {one.address for one in (t.candidate for t in self.trials) if one.address}
        while True:
            await anyio.sleep(LOOK_S)
            connection = self.connection()
            known |= {one.address for one in connection.candidates(None) if one.address}
            found = await discover(connection.discovery, connection.deadlines.discover_s)
            now = {one.address for one in found if one.address is not None}
            if now - known:
                return
            whole = all(one.address is not None for one in found)
            known = now if whole else known | now  # what is not told now is nothing new later

    async def _token_changed(self) -> None:
        """Wait until the token is another than the one that was shown last."""
        before = next((t.token for t in reversed(self.trials) if t.candidate.address), NO_TOKEN)
        if self.attachment is not None:
            before = self.attachment.attached.token
        while True:
            if (await self.connection().current_token()).value != before.value:
                return
            await anyio.sleep(TOKEN_S)

    async def _preferred(self, order: WatchCues) -> None:
        """Wait until a preferred candidate has been good for the hold."""
        assert self.attachment is not None  # noqa: S101  the core orders it for an attachment only
        attached = self.attachment.attached
        own, local = attached.facts.cluster_id, attached.address.mode is Mode.LOCAL
        good_since_s: dict[Address | None, float] = {}
        told = False
        while True:
            preferred = await self._preferred_candidates(attached.candidate)
            for one, seen in zip(preferred, await self._climbed(preferred), strict=True):
                same = seen is not None and own is not None and seen.identity.cluster_id == own
                if seen is None or (same and local):  # our own cluster is found here as well
                    good_since_s.pop(one.address, None)
                    continue
                since_s = good_since_s.setdefault(one.address, anyio.current_time())
                hold_s = order.same_hold_s if same else order.hold_s
                if anyio.current_time() - since_s < hold_s:
                    continue
                work = () if same else self.busy()
                if not work:
                    return
                told = told or _tell_waiting(work)
            await anyio.sleep(LOOK_S)

    async def _preferred_candidates(self, attached: Candidate) -> list[Candidate]:
        """All before the attached one; where that is found no more, what is configured."""
        connection = self.connection()
        every = [one for one in await connection.every() if one.address]
        addresses = [one.address for one in every]
        if attached.address in addresses:
            return every[: addresses.index(attached.address)]
        if attached.source == "local":
            return every
        return [one for one in connection.candidates(None) if one.address]

    async def _climbed(self, candidates: list[Candidate]) -> list[Climb | None]:
        """Climb to all at once, and in their order: one that is silent holds up no other."""
        seen: dict[int, Climb | None] = {}

        async def look(number: int, one: Candidate) -> None:
            seen[number] = await self._climb(one)

        async with anyio.create_task_group() as tasks:
            for number, one in enumerate(candidates):
                tasks.start_soon(look, number, one)
        return [seen[number] for number in range(len(candidates))]

    async def _climb(self, one: Candidate) -> Climb | None:
        """Climb as an attempt would; what it could not join is no reason to move."""
        connection = self.connection()
        assert one.address is not None  # noqa: S101  others are not preferred
        try:
            return await climb(
                one.address,
                clock=PhaseClock(anyio.current_time),
                deadlines=replace(connection.deadlines, local_node_s=QUICK_S),
                credentials=connection.credentials(await connection.current_token()),
                expect=lambda: self.ray_version(connection),
                hearsay=one.hearsay,
            )
        except AttachError:
            return None


def _tell_waiting(work: Sequence[str]) -> bool:
    """Name, once, what a move to another cluster waits for."""
    message = f"a preferred cluster is back; the move waits for {', '.join(work)}"
    log.info(message[:1024])
    return True
