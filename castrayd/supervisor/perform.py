"""Performs the core's commands: each is awaited, and answered by its final event.

The supervisor alone calls `perform`. A command that is cancelled leaves nothing behind, except
that a session which was handed over lives on until `EndSession`.
"""

import random
from collections.abc import Callable, Sequence
from typing import assert_never

import anyio
import structlog
from anyio.abc import TaskGroup

from castrayd.core import commands as c
from castrayd.core import events as e
from castrayd.core.candidates import LOCAL
from castrayd.core.cluster import Place
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault
from castrayd.session.session import NodesPush, Session, SessionLine
from castrayd.supervisor.attachment import Attachment
from castrayd.supervisor.attempt import Attempt
from castrayd.supervisor.connection import Connection
from castrayd.supervisor.cues import Cues
from castrayd.supervisor.documents import AttemptDocument
from castrayd.supervisor.sessions import SessionPool
from castrayd.supervisor.trial import Attached
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.facts import SessionOutput
from castrayd.telemetry.publisher import Publisher

__all__ = ("Performer",)

log = structlog.get_logger("castrayd.supervisor")

_COLD: frozenset[ErrorType] = frozenset(
    {ErrorType.VERSION_MISMATCH, ErrorType.AUTH_MISSING, ErrorType.AUTH_REJECTED}
)
"""After these a session that stands by was started with something wrong."""


class Performer:
    """Holds the running attempt and the attachment."""

    def __init__(  # noqa: PLR0913, PLR0917  the supervisor hands over its parts once
        self,
        tasks: TaskGroup,
        connection: Callable[[], Connection],
        publisher: Publisher,
        clock: Clock,
        rng: random.Random,
        on_cancelled: Callable[[AttemptDocument], None],
    ) -> None:
        self._tasks = tasks
        self.attempt: Attempt | None = None
        self.attachment: Attachment | None = None
        self.busy: Callable[[], Sequence[str]] = tuple
        """What runs on the cluster and would be lost by a move to another one."""
        self._ending: Session | None = None
        self.last_nodes = 0
        """How many nodes the cluster had when last seen."""
        self.pool = SessionPool(tasks, self._output, self._nodes)
        self._connection = connection
        self._publisher = publisher
        self._clock = clock
        self._rng = rng
        self._on_cancelled = on_cancelled

    async def perform(  # noqa: PLR0911  one answer a command
        self, command: c.Command, post: Callable[[e.Event], None]
    ) -> e.Event:
        """Perform one command; returns the event that answers it."""
        match command:
            case c.RunAttempt():
                return await self._run(command)
            case c.EndSession():
                await self._end()
                return e.SessionEnded(self._now(), command.epoch, self._jitter())
            case c.WatchSession():
                return await self._watch(command, post)
            case c.VerifyIdentity():
                return await self._verify(command)
            case c.WatchCues():
                return e.CueSeen(self._now(), command.epoch, await self._cues().wait(command))
            case c.WaitGrace():
                await self._sleep_until(command.until_s)
                return e.GraceElapsed(self._now(), command.epoch)
            case c.WaitSettle():
                await self._sleep_until(command.until_s)
                return e.SettleElapsed(self._now(), command.epoch)
            case c.WaitRetry():
                await self._sleep_until(command.until_s)
                return e.RetryDue(self._now(), command.epoch)
            case _:
                assert_never(command)

    async def _run(self, command: c.RunAttempt) -> e.Event:
        connection = self._connection()
        self.attempt = Attempt(command, connection, self.pool, self._clock)
        try:
            attached = await self.attempt.run()
        except AttachError as error:
            if error.fault.type is ErrorType.INTERNAL:
                log.error("an attempt failed by a bug", exc_info=error)
            return self._failed(command, error.fault)
        except BaseException:
            self._on_cancelled(self.attempt.document())
            raise
        self.attachment = Attachment(
            attached, lambda: self._connection().policy, from_standby=self.pool.from_standby
        )
        self.last_nodes = self.attachment.alive
        return e.AttemptSucceeded(self._now(), command.epoch, _place(self.attempt, attached))

    def _failed(self, command: c.RunAttempt, fault: Fault) -> e.AttemptFailed:
        if fault.type in _COLD:
            self._tasks.start_soon(self.pool.cool, name="cool")
        others = self.attempt.faults() if self.attempt else ()
        return e.AttemptFailed(self._now(), command.epoch, fault, self._jitter(), others)

    async def _end(self) -> None:
        """End the session; the supervisor has waited for what used it."""
        attachment, self.attachment = self.attachment, None
        if attachment is not None:
            self._ending = attachment.session
            await attachment.session.close()

    @property
    def was_local(self) -> bool:
        """Whether the last attachment was a cluster of our own: no warm session would fit it."""
        last = self.attempt.last if self.attempt and self.attempt.won else None
        return last is not None and last.address is LOCAL

    def hurry(self) -> None:
        """End without ceremony what is being ended."""
        if self._ending is not None:
            self._ending.hurry()

    async def _watch(self, command: c.WatchSession, post: Callable[[e.Event], None]) -> e.Event:
        attachment = self.attachment
        if attachment is None:
            raise AssertionError  # pragma: no cover  (the core orders this after a success only)
        fault = await attachment.watch(
            lambda report: post(e.CheckReported(self._now(), command.epoch, report))
        )
        return e.SessionExited(self._now(), command.epoch, fault)

    async def _verify(self, command: c.VerifyIdentity) -> e.Event:
        fault = await self.attachment.verify() if self.attachment else None
        return e.IdentityVerified(self._now(), command.epoch, fault)

    def _cues(self) -> Cues:
        trials = tuple(self.attempt.trials) if self.attempt else ()
        won = self.attempt is not None and self.attempt.won
        return Cues(
            connection=self._connection,
            trials=trials,
            lost=self.attempt.last if self.attempt and won else None,
            ray_version=self.pool.ray_version,
            attachment=self.attachment,
            known_nodes=self.last_nodes,
            busy=self.busy,
            rng=self._rng,
        )

    async def _sleep_until(self, until_s: float) -> None:
        await anyio.sleep(max(0.0, until_s - self._now()))

    def _now(self) -> float:
        return self._clock.monotonic()

    def _jitter(self) -> float:
        return self._rng.uniform(0.5, 1.0)

    def _output(self, line: SessionLine) -> None:
        self._publisher.publish(SessionOutput(line.session_id, line.stream, line.text))

    def _nodes(self, session: Session, push: NodesPush) -> None:
        attachment = self.attachment
        if attachment is None or attachment.session is not session:
            return
        changes = attachment.take(push)
        self.last_nodes = attachment.alive or self.last_nodes
        if changes is not None:
            self._publisher.publish(changes)


def _place(attempt: Attempt, attached: Attached) -> Place:
    """Tell where an attachment stands; our own cluster is preferred where nothing is wanted."""
    local = attached.address.mode is Mode.LOCAL
    rank = 0 if local and not attempt.wanted else attempt.rank
    return Place(rank, attached.facts.cluster_id, fallback=local and attempt.wanted)
