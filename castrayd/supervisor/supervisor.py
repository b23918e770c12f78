"""The supervisor: the one consumer of events, the only place where the snapshot changes.

An event goes through `core.machine.step`; what the new snapshot does not await any more is
cancelled, the commands are started, and what has happened is published. Requests of the control
API go through the same queue, so that an answer is about the state that it saw.
"""

import contextlib
import math
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from castrayd.core import events as e
from castrayd.core.backoff import ceiling_s
from castrayd.core.commands import Command, EndSession, Slot
from castrayd.core.effects import abandon
from castrayd.core.health import Check, CheckReport
from castrayd.core.machine import step
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import State
from castrayd.errors import ErrorType, Fault, Phase, Retry, described
from castrayd.supervisor.connection import Connection
from castrayd.supervisor.documents import AttemptDocument
from castrayd.supervisor.perform import Performer
from castrayd.supervisor.times import StateTimes
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.facts import AttemptEnded, ConnectionLost, InternalFault, StateChanged
from castrayd.telemetry.publisher import Publisher

__all__ = ("ClosedError", "Step", "Supervisor")

log = structlog.get_logger("castrayd.supervisor")

HISTORY = 200
"""Attempts kept for the API."""


class ClosedError(Exception):
    """Raised when a request comes after the supervisor has ended."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did."""

    before: Snapshot
    after: Snapshot


@dataclass(frozen=True, slots=True)
class _Bug:
    """A command could not be performed, for a reason that is nobody's but ours."""

    error: Exception
    slot: Slot
    epoch: int

    def is_stale(self, snapshot: Snapshot) -> bool:
        """Whether the command was called off meanwhile: then nothing hangs on it any more."""
        return snapshot.awaiting.get(self.slot) != self.epoch


@dataclass(slots=True)
class _Letter:
    """An event on its way, and where its sender waits for the step."""

    event: "e.Event | _Bug | None"
    """None: nothing has happened, somebody only asks whether letters are read."""
    done: anyio.Event | None = None
    step: Step | None = None


@dataclass(slots=True)
class _Running:
    """A command that is being performed."""

    epoch: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)


class Supervisor:
    """Keeps the attachment. `run` it in a task; everything else may be called while it runs."""

    def __init__(
        self,
        connection: Connection,
        snapshot: Snapshot,
        publisher: Publisher,
        clock: Clock,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self.connection = connection
        self.snapshot = snapshot
        self.history: deque[AttemptDocument] = deque(maxlen=HISTORY)
        self.times = StateTimes(snapshot.state, clock)
        self.performer: Performer | None = None
        self.busy: Callable[[], Sequence[str]] = tuple
        """Names what runs on the cluster; set before `run`. A failback elsewhere waits for it."""
        self._publisher = publisher
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  jitter is no secret
        self.connected_s: float | None = None
        """When it was connected last, where it is not now; None: not in this life."""
        self.contact_s: float | None = None
        """When the GCS answered a check last; None: never."""
        self.operator_s: float | None = None
        """Since when a person is needed, over however many attempts; None: nobody is."""
        self._lost_s: float | None = None
        """When there was a connection last; None where there never was one."""
        self._running: dict[Slot, _Running] = {}
        self._send, self._receive = anyio.create_memory_object_stream[_Letter](math.inf)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Consume events until a stop request has been carried out; leaves no session behind."""
        async with anyio.create_task_group() as tasks, self._send, self._receive:
            self.performer = Performer(
                tasks,
                lambda: self.connection,
                self._publisher,
                self._clock,
                self._rng,
                self._tell_cancelled,
            )
            self.performer.busy = self.busy
            self.post(e.Started(self._now()))
            task_status.started()
            async for letter in self._receive:
                self._read(letter, tasks)
                if self.snapshot.stopping and not self.snapshot.ending:
                    break
            await self.performer.pool.cool()
            self._release()
            tasks.cancel_scope.cancel()

    def _release(self) -> None:
        """Let go of whoever still waits for an answer: there will be none."""
        self._send.close()
        while True:
            try:
                letter = self._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                return
            if letter.done is not None:
                letter.done.set()

    def post(self, event: "e.Event | _Bug") -> None:
        """Queue an event; never waits."""
        try:
            self._send.send_nowait(_Letter(event))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # what was under way when the supervisor ended has nobody to tell

    async def ask(self, event: e.Request) -> Step:
        """Queue a request and wait for its step. Raises `ClosedError` when it is too late."""
        letter = _Letter(event, anyio.Event())
        try:
            self._send.send_nowait(letter)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise ClosedError from None
        assert letter.done is not None  # noqa: S101  made above
        await letter.done.wait()
        if letter.step is None:
            raise ClosedError
        return letter.step

    async def turn(self) -> None:
        """Return when the consumer has come to this call: proof that it moves, or has ended."""
        letter = _Letter(None, anyio.Event())
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._send.send_nowait(letter)
            assert letter.done is not None  # noqa: S101  made above
            await letter.done.wait()

    def configure(self, connection: Connection) -> None:
        """Put new settings in force for what comes; `ConfigReloaded` says whether to reconnect."""
        self.connection = connection

    def _read(self, letter: _Letter, tasks: TaskGroup) -> None:
        if letter.event is not None:
            letter.step = self._consume(letter.event, tasks)
        if letter.done is not None:
            letter.done.set()

    def _consume(self, event: "e.Event | _Bug", tasks: TaskGroup) -> Step | None:
        before = self.snapshot
        if isinstance(event, _Bug) and event.is_stale(before):
            log.error("what was called off failed by a bug", exc_info=event.error)
            return None
        try:
            if isinstance(event, _Bug):
                raise event.error  # noqa: TRY301  where every bug is survived
            after, commands = step(before, event, self.connection.policy)
        except Exception as error:  # noqa: BLE001  it is told, with its stack
            after, commands = self._survive(error)
        if isinstance(event, e.CheckReported) and event.report == _GCS_ANSWERS:
            self.contact_s = event.at_s
        self.snapshot = after
        needed = after.error is not None and after.error.retry is Retry.OPERATOR
        self.operator_s = (self.operator_s or self._now()) if needed else None
        self._call_off(after)
        for command in commands:
            self._start(command, tasks)
        if after is not before:
            self._tell(before, after, event, tasks)
        return Step(before, after)

    def _survive(self, error: Exception) -> tuple[Snapshot, tuple[Command, ...]]:
        """Go on after a bug of ours, without a session; the stack is in the log."""
        fault = Fault.of(ErrorType.INTERNAL, Phase.ATTACHED, described(error))
        self._publisher.publish(InternalFault(fault))
        return abandon(self.snapshot, self._now(), fault, self.connection.policy)

    def _call_off(self, snapshot: Snapshot) -> None:
        for slot, running in self._running.items():
            if snapshot.awaiting.get(slot) != running.epoch:
                running.scope.cancel()

    def _start(self, command: Command, tasks: TaskGroup) -> None:
        others = list(self._running.values()) if isinstance(command, EndSession) else []
        same = self._running.get(command.SLOT)
        running = self._running[command.SLOT] = _Running(command.epoch)
        waits = [*others, same] if same else others
        name = f"{type(command).__name__}#{command.epoch}"
        tasks.start_soon(self._perform, command, running, waits, name=name)

    async def _perform(self, command: Command, mine: _Running, first: list[_Running]) -> None:
        """Perform a command, when what it replaces has ended; post its answer unless called off."""
        assert self.performer is not None  # noqa: S101  made before any command
        try:
            with mine.scope:
                for running in first:
                    await running.done.wait()
                self.post(await self.performer.perform(command, self.post))
        except Exception as error:
            if isinstance(command, EndSession):
                raise  # what may still live cannot be told: better to be started anew
            self.post(_Bug(error, command.SLOT, command.epoch))
        finally:
            mine.done.set()
            if self._running.get(command.SLOT) is mine:
                del self._running[command.SLOT]

    def _tell(
        self, before: Snapshot, after: Snapshot, event: "e.Event | _Bug", tasks: TaskGroup
    ) -> None:
        """Publish what a step has changed."""
        performer = self.performer
        assert performer is not None  # noqa: S101  made before any event
        if isinstance(event, (e.AttemptSucceeded, e.AttemptFailed)) and performer.attempt:
            self._tell_attempt(performer.attempt.document(), after)
        if before.attached_s is not None and after.attached_s is None:
            lasted_s, why = self._now() - before.attached_s, _why(before, after)
            self._publisher.publish(ConnectionLost(lasted_s, why))
            self._lost_s = self._now()
        if before.state is not after.state:
            self.times.enter(after.state)
            self.connected_s = self._now() if before.state is State.CONNECTED else self.connected_s
            self._publisher.publish(
                StateChanged(
                    before.state, after.state, _trigger(after, event), after.reasons, after.desired
                )
            )
        if before.state is not after.state or before.wants_attempts != after.wants_attempts:
            self._warm_up_or_cool(after, tasks)

    def _tell_attempt(self, document: AttemptDocument, after: Snapshot) -> None:
        self.history.append(document)
        at_s, now_s = after.retry_at_s, self._now()
        self._publisher.publish(
            AttemptEnded(
                document,
                next_retry_at=None if at_s is None else self._clock.at(at_s),
                next_retry_in_s=None if at_s is None else at_s - now_s,
                outage_s=None if self._lost_s is None else now_s - self._lost_s,
                ceiling_s=self._ceiling_s(after, document.error),
                desired=after.desired,
            )
        )

    def _ceiling_s(self, after: Snapshot, error: Fault | None) -> float | None:
        if after.retry_at_s is None or error is None:
            return None
        return ceiling_s(after.counted, error.retry, self.connection.policy.backoff)

    def _tell_cancelled(self, document: AttemptDocument) -> None:
        self.history.append(document)
        self._publisher.publish(AttemptEnded(document, desired=self.snapshot.desired))

    def _warm_up_or_cool(self, after: Snapshot, tasks: TaskGroup) -> None:
        """Keep a session warm while there is none that works, and only then."""
        assert self.performer is not None  # noqa: S101  made before any event
        pool = self.performer.pool
        if not after.wants_attempts or after.state is State.CONNECTED:
            tasks.start_soon(pool.cool, name="cool")
        elif after.state is not State.DISCOVERING and not self.performer.was_local:
            pool.keep_warm(self.connection)

    def _now(self) -> float:
        return self._clock.monotonic()


_GCS_ANSWERS = CheckReport(Check.GCS, None)


def _why(before: Snapshot, after: Snapshot) -> Fault | None:
    """The fault that ended an attachment; None where a person did."""
    return after.error if after.error is not None else next(iter(before.reasons), None)


def _trigger(after: Snapshot, event: "e.Event | _Bug") -> str:
    """Name what changed the state: what began the attempt, else the event."""
    if after.state is State.DISCOVERING and after.attempt is not None:
        return after.attempt.trigger
    if isinstance(event, _Bug):
        return ErrorType.INTERNAL
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
