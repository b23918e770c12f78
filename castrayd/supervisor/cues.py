"""Reasons to begin an attempt before its time: looked for while waiting, and while attached.

Run by `perform` for one order of the core, which says what to look for. Every cue is an edge: it
must not be there when the look begins, or an attempt that fails would be begun again at once.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import anyio

from castrayd.core.candidates import Address, Candidate
from castrayd.core.commands import WatchCues
from castrayd.core.phases import PhaseClock
from castrayd.core.states import Mode, Trigger
from castrayd.errors import AttachError, Phase
from castrayd.probe.credentials import Tls
from castrayd.probe.discovery import discover
from castrayd.probe.ladder import Climb, climb
from castrayd.probe.returned import wait_returned
from castrayd.supervisor.attachment import Attachment
from castrayd.supervisor.connection import Connection
from castrayd.supervisor.trial import Trial

__all__ = ("Cues",)

LOOK_S: Final = 2.0
"""Between two looks for new or preferred candidates."""
TOKEN_S: Final = 0.5
"""Between two looks at the token's file."""
QUICK_S: Final = 0.5
"""For a raylet of a preferred cluster: one that is to be used lives already."""
_RETURNABLE: Final = frozenset({Phase.RESOLVE, Phase.TCP, Phase.HEALTH, Phase.LOCAL_NODE})
"""Phases whose mending can be seen without joining and without a token."""


@dataclass(frozen=True, slots=True)
class Cues:
    """What there is to compare with: the last attempt, and what it led to."""

    connection: Callable[[], Connection]
    """Asked anew at each look, for a reload does not end the look."""
    trials: tuple[Trial, ...]
    attachment: Attachment | None
    known_nodes: int
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

        After a loss it is the one that was attached, which has no fault of its own.
        """
        last = self.trials[-1:]
        lost = [trial for trial in last if trial.fault is None]
        failed = [t for t in self.trials if t.fault and t.fault.phase in _RETURNABLE]
        addresses = [trial.candidate.address for trial in (*failed, *lost)]
        return [one for one in addresses if one is not None and one.mode is not Mode.LOCAL]

    def _tls(self) -> Tls | None:
        try:
            return self.connection().credentials(None).tls
        except AttachError:
            return None

    async def _found(self) -> None:
        """Wait until there is a candidate that there was not."""
        known = {trial.candidate.address for trial in self.trials}
        while True:
            await anyio.sleep(LOOK_S)
            connection = self.connection()
            known |= {one.address for one in connection.candidates(None)}
            found = await discover(connection.discovery, connection.deadlines.discover_s)
            now = {one.address for one in found}
            if now - known:
                return
            known = now

    async def _token_changed(self) -> None:
        """Wait until the token is another than the one that was shown last."""
        before = next((t.token for t in reversed(self.trials) if t.candidate.address), None)
        if self.attachment is not None:
            before = self.attachment.attached.token
        while True:
            if await self.connection().current_token() != before:
                return
            await anyio.sleep(TOKEN_S)

    async def _preferred(self, order: WatchCues) -> None:
        """Wait until a preferred candidate has been good for the hold."""
        assert self.attachment is not None  # noqa: S101  the core orders it for an attachment only
        attached = self.attachment.attached
        own, local = attached.facts.cluster_id, attached.address.mode is Mode.LOCAL
        good_since_s: dict[Address, float] = {}
        while True:
            for address in await self._preferred_addresses(attached.candidate):
                seen = await self._climbed(address)
                same = seen is not None and own is not None and seen.identity.cluster_id == own
                if seen is None or (same and local):  # our own cluster is found here as well
                    good_since_s.pop(address, None)
                    continue
                since_s = good_since_s.setdefault(address, anyio.current_time())
                hold_s = order.same_hold_s if same else order.hold_s
                if anyio.current_time() - since_s >= hold_s:
                    return
            await anyio.sleep(LOOK_S)

    async def _preferred_addresses(self, attached: Candidate) -> list[Address]:
        """All before the attached one; where that is found no more, what is configured."""
        every = [one.address for one in await self.connection().every() if one.address]
        if attached.address in every:
            return every[: every.index(attached.address)]
        if attached.source == "local":
            return every
        return [one.address for one in self.connection().candidates(None) if one.address]

    async def _climbed(self, address: Address) -> Climb | None:
        connection = self.connection()
        deadlines = replace(connection.deadlines, local_node_s=QUICK_S)
        try:
            return await climb(
                address,
                clock=PhaseClock(anyio.current_time),
                deadlines=deadlines,
                credentials=connection.credentials(await connection.current_token()),
                expect=None,
            )
        except AttachError:
            return None
