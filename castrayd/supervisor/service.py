"""What the control API sees of the attachment: requests in, documents out."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import anyio

import castrayd
from castrayd.core import events as e
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Desired, State
from castrayd.ledger import Wish
from castrayd.supervisor.attachment import Attachment
from castrayd.supervisor.documents import (
    AddressDocument,
    AttemptDocument,
    CastingDocument,
    ClusterDocument,
    DaemonDocument,
    NodeDocument,
    SessionDocument,
    StandingWarning,
    Status,
    TransfersDocument,
)
from castrayd.supervisor.supervisor import Step, Supervisor
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import EventLog
from castrayd.telemetry.metrics import Standing

__all__ = ("AttachmentService", "Identity")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this daemon is."""

    daemon_id: str
    started_at: str
    started_s: float


class AttachmentService:
    """Requests and documents, over one running supervisor."""

    def __init__(  # noqa: PLR0913, PLR0917  the composition root names each part once
        self,
        supervisor: Supervisor,
        events: EventLog,
        clock: Clock,
        identity: Identity,
        wish: Wish,
        store_wish: Callable[[Wish], Awaitable[None]],
    ) -> None:
        self.events = events
        self.earlier: tuple[AttemptDocument, ...] = ()
        """Attempts of earlier lives, the newest first."""
        self.connected_at: str | None = None
        """When an earlier life was connected last; None where none ever was."""
        self.warnings: tuple[StandingWarning, ...] = ()
        """Standing warnings of the daemon, beside those that follow from the state."""
        self.casting: Callable[[], CastingDocument] = CastingDocument
        """What there is of casting, for status."""
        self.transfers: Callable[[], TransfersDocument] = TransfersDocument
        """The same of transfers."""
        self.wished: Callable[[Wish], None] = _nobody
        """Told of a wish when it is in force."""
        self._supervisor = supervisor
        self._clock = clock
        self._identity = identity
        self._wish = wish
        self._store_wish = store_wish
        self._wishing = anyio.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """The core's snapshot, as of now."""
        return self._supervisor.snapshot

    async def reconnect(self, address: str | None) -> Step:
        """Ask for an attempt now. Raises `ClosedError` when the daemon is ending."""
        return await self._supervisor.ask(e.ReconnectRequested(self._clock.monotonic(), address))

    async def pause(self, who: str, reason: str | None) -> Step:
        """Want no attachment, until resumed, over restarts too."""
        return await self._want(Wish(Desired.PAUSED, who, reason or ""), e.PauseRequested)

    async def resume(self, who: str, reason: str | None) -> Step:
        """Want the attachment back."""
        return await self._want(Wish(Desired.UP, who, reason or ""), e.ResumeRequested)

    async def _want(
        self, wish: Wish, request: type[e.PauseRequested] | type[e.ResumeRequested]
    ) -> Step:
        """One wish at a time, so that what is stored last is what was asked for last."""
        async with self._wishing:
            await self._store_wish(wish)
            self._wish = wish
            step = await self._supervisor.ask(request(self._clock.monotonic()))
        self.wished(wish)
        return step

    def attempts(self, limit: int) -> list[AttemptDocument]:
        """Return the last attempts, newest first, the one under way and earlier lives included."""
        begun = [self._planned_attempt(), self._running_attempt()]
        ended = [*reversed(self._supervisor.history), *self.earlier]
        return [*(one for one in begun if one is not None), *ended][:limit]

    def _planned_attempt(self) -> AttemptDocument | None:
        """One that begins when the old session has ended: whoever asked for it knows its id."""
        ref = self.snapshot.planned
        if ref is None:
            return None
        source = None if ref.address is None else "request"
        return AttemptDocument(
            ref.id, ref.number, ref.trigger, None, self._clock.now(), 0.0, {}, None, ref.address,
            source, (),
        )  # fmt: skip

    def _last_attempt(self) -> AttemptDocument | None:
        """The one under way, or the last of this life."""
        history = self._supervisor.history
        return self._running_attempt() or (history[-1] if history else None)

    def attempt(self, attempt_id: str) -> AttemptDocument | None:
        """Return one attempt, or None for one that is not known (any more)."""
        everything = self.attempts(len(self._supervisor.history) + len(self.earlier) + 2)
        return next((a for a in everything if a.id == attempt_id), None)

    def nodes(self) -> list[NodeDocument]:
        """Return the node map; empty without an attachment."""
        nodes = attachment.nodes.values() if (attachment := self.attachment) else ()
        return [
            NodeDocument(
                n.node_id,
                n.alive,
                n.address,
                n.hostname,
                n.head,
                n.resources,
                n.labels,
                n.death_reason,
            )
            for n in nodes
        ]

    def status(self) -> Status:
        """Return the whole truth, as of now."""
        snapshot, now_s = self.snapshot, self._clock.monotonic()
        attachment = self.attachment
        retry_s = snapshot.retry_at_s
        return Status(
            daemon=self._daemon(now_s),
            state=snapshot.state,
            since=self._clock.at(snapshot.since_s)
            if snapshot.since_s
            else self._identity.started_at,
            state_s=max(0.0, now_s - (snapshot.since_s or self._identity.started_s)),
            desired=snapshot.desired,
            desired_by=self._wish.who,
            desired_reason=self._wish.reason,
            error=snapshot.error,
            reasons=snapshot.reasons,
            address=self._address(attachment),
            namespace=self._supervisor.connection.namespace,
            session=_session(attachment),
            cluster=_cluster(attachment),
            attempt=self._last_attempt(),
            next_retry_at=None if retry_s is None else self._clock.at(retry_s),
            next_retry_in_s=None if retry_s is None else max(0.0, retry_s - now_s),
            states=self._supervisor.times.document(),
            warnings=(*self.warnings, *self._state_warnings()),
            casting=self.casting(),
            transfers=self.transfers(),
        )

    def standing(self, events_dropped: int) -> Standing:
        """Return what the metrics show of it, as of now."""
        snapshot, supervisor, attachment = self.snapshot, self._supervisor, self.attachment
        warnings = (*self.warnings, *self._state_warnings())
        return Standing(
            state=snapshot.state,
            paused=snapshot.desired is Desired.PAUSED,
            started=_moment(self._identity.started_at),
            next_retry=self._wall(snapshot.retry_at_s),
            last_connected=self._last_connected(),
            last_contact=self._wall(supervisor.contact_s),
            nodes_alive=attachment.alive if attachment else None,
            nodes_dead=len(attachment.nodes) - attachment.alive if attachment else None,
            casters_wanted=self.casting().desired,
            casters_ready=self.casting().ready,
            transfers_active=self.transfers().active,
            warnings=[(one.code, one.severity) for one in warnings],
            events_dropped=events_dropped,
        )

    def _last_connected(self) -> float | None:
        """Now, or when it was so last, in an earlier life if need be; None: never."""
        if self.snapshot.state is State.CONNECTED:
            return self._wall(self._clock.monotonic())
        if self._supervisor.connected_s is not None:
            return self._wall(self._supervisor.connected_s)
        return _moment(self.connected_at) if self.connected_at else None

    def _wall(self, monotonic_s: float | None) -> float | None:
        """An instant to the millisecond: what does not move must not seem to."""
        return None if monotonic_s is None else round(self._clock.wall_at(monotonic_s), 3)

    def _daemon(self, now_s: float) -> DaemonDocument:
        identity = self._identity
        return DaemonDocument(
            identity.daemon_id,
            castrayd.__version__,
            os.getpid(),
            identity.started_at,
            now_s - identity.started_s,
        )

    @property
    def attachment(self) -> Attachment | None:
        """The attachment, in the states that have one."""
        performer = self._supervisor.performer
        attached = self.snapshot.state in {State.CONNECTED, State.DEGRADED}
        return performer.attachment if performer and attached else None

    def _running_attempt(self) -> AttemptDocument | None:
        performer = self._supervisor.performer
        attempt = performer.attempt if performer else None
        running = self.snapshot.state is State.DISCOVERING and attempt is not None
        if not running or attempt is None or attempt.ref != self.snapshot.attempt:
            return None
        return attempt.document()

    def _address(self, attachment: Attachment | None) -> AddressDocument | None:
        """The address attached to; without an attachment the one tried last."""
        performer = self._supervisor.performer
        attempt = performer.attempt if performer else None
        candidate = attempt.last if attempt else None
        if attachment is not None:
            candidate = attachment.attached.candidate
        if candidate is None or candidate.address is None:
            return None
        return AddressDocument(candidate.address.url, candidate.source, candidate.address.mode)

    def _state_warnings(self) -> tuple[StandingWarning, ...]:
        error, since_s = self.snapshot.error, self._supervisor.operator_s
        if error is None or since_s is None:
            return ()
        since = self._clock.at(since_s)
        return (StandingWarning("needs_operator", "error", error.message, error.hint, since),)


def _nobody(_wish: Wish) -> None:
    """Tell nobody."""


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _session(attachment: Attachment | None) -> SessionDocument | None:
    if attachment is None:
        return None
    session = attachment.session
    return SessionDocument(
        session.id, session.pid, session.python, session.ray, attachment.from_standby
    )


def _cluster(attachment: Attachment | None) -> ClusterDocument | None:
    if attachment is None:
        return None
    facts, alive = attachment.attached.facts, attachment.alive
    return ClusterDocument(
        facts.cluster_id,
        facts.ray_version,
        facts.dashboard_url,
        alive,
        len(attachment.nodes) - alive,
        attachment.totals,
        attachment.available,
    )
