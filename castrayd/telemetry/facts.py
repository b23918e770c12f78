"""What can happen, as types: each fact is an event of the stream, a line of the log, a stored row.

The supervisor and the daemon make them and `publisher` tells them. A fact holds what is known, in
the types of the core; how it reads in the log is `wording`'s business, what is counted of it
`metrics`'.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from msgspec import Struct

from castrayd.core.states import Desired, Outcome, State
from castrayd.errors import Fault

__all__ = (
    "FACTS",
    "AttemptEnded",
    "AttemptFact",
    "CastFinished",
    "CasterLost",
    "CasterReady",
    "ConfigReloaded",
    "ConnectionLost",
    "DesiredChanged",
    "Fact",
    "InternalFault",
    "NodesChanged",
    "SessionOutput",
    "StateChanged",
    "TransferFinished",
    "TransferProgress",
    "TransferStarted",
    "plain",
)


class AttemptFact(Protocol):
    """What is told of an attempt: the API's document of it has it all."""

    @property
    def id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def trigger(self) -> str: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def phases(self) -> Mapping[str, float]: ...
    @property
    def error(self) -> Fault | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def source(self) -> str | None: ...
    @property
    def seen(self) -> Mapping[str, str | None]: ...


class StateChanged(Struct, frozen=True):
    """The attachment is in another state."""

    NAME: ClassVar = "castray.state.changed"
    source: State
    target: State
    trigger: str
    reasons: Sequence[Fault] = ()
    desired: Desired = Desired.UP
    """What the operator wants meanwhile."""


class DesiredChanged(Struct, frozen=True):
    """Somebody wants the attachment, or does not."""

    NAME: ClassVar = "castray.desired.changed"
    desired: Desired
    by: str
    reason: str


class AttemptEnded(Struct, frozen=True):
    """An attempt has succeeded, failed or been cancelled."""

    NAME: ClassVar = "castray.connection.attempt"
    attempt: AttemptFact
    next_retry_at: str | None = None
    next_retry_in_s: float | None = None
    outage_s: float | None = None
    """Since there was a connection last; None where there never was, or is one now."""
    ceiling_s: float | None = None
    """The most that the backoff could have drawn; None where nothing is waited for."""
    desired: Desired = Desired.UP
    """What the operator wants when it ends."""


class ConnectionLost(Struct, frozen=True):
    """An attachment has ended."""

    NAME: ClassVar = "castray.connection.lost"
    session_duration_s: float
    error: Fault | None
    """None where a person wanted it so."""


class ConfigReloaded(Struct, frozen=True):
    """New settings were taken, or refused with nothing changed."""

    NAME: ClassVar = "castray.config.reloaded"
    changed: Sequence[str] = ()
    reconnect: bool = False
    error: str | None = None


class NodesChanged(Struct, frozen=True):
    """The node map has changed: ids, and how many there are now."""

    NAME: ClassVar = "castray.nodes.changed"
    joined: Sequence[str]
    died: Sequence[str]
    alive: int
    dead: int


class CasterReady(Struct, frozen=True):
    """A casting node of this daemon is there."""

    NAME: ClassVar = "castray.caster.ready"
    caster: str
    node_id: str
    address: str


class CasterLost(Struct, frozen=True):
    """A casting node of this daemon is wanted and not there."""

    NAME: ClassVar = "castray.caster.lost"
    caster: str
    reason: str


class CastFinished(Struct, frozen=True):
    """A message has its receipts."""

    NAME: ClassVar = "castray.cast.finished"
    id: str
    sender: str
    delivered: int
    failed: int
    duration_s: float
    outcomes: Mapping[str, str]
    """By recipient."""


class TransferStarted(Struct, frozen=True):
    """A file is on its way."""

    NAME: ClassVar = "castray.transfer.started"
    id: str
    sender: str
    recipients: Sequence[str]


class TransferProgress(Struct, frozen=True):
    """How far a file is, about once a second; not kept over restarts."""

    NAME: ClassVar = "castray.transfer.progress"
    id: str
    state: str
    bytes_verified: int
    """At all recipients together."""
    bytes_total: int | None
    """Of the file; None while unknown."""
    speed_bytes_s: float | None
    eta_s: float | None


class TransferFinished(Struct, frozen=True):
    """A file has arrived, or will not."""

    NAME: ClassVar = "castray.transfer.finished"
    id: str
    state: str
    bytes_verified: int
    """Of the files that are there now, and were not before."""
    sha256: str | None
    outcomes: Mapping[str, str]
    """By recipient: `done`, or the type of its error."""


class SessionOutput(Struct, frozen=True):
    """The session's process has said something."""

    NAME: ClassVar = "castray.session.output"
    session_id: str
    stream: str
    text: str


class InternalFault(Struct, frozen=True):
    """A bug was survived; made while its exception is handled."""

    NAME: ClassVar = "castray.internal"
    error: Fault


Fact: TypeAlias = (
    StateChanged
    | DesiredChanged
    | AttemptEnded
    | ConnectionLost
    | ConfigReloaded
    | NodesChanged
    | CasterReady
    | CasterLost
    | CastFinished
    | TransferStarted
    | TransferProgress
    | TransferFinished
    | SessionOutput
    | InternalFault
)
FACTS: tuple[type[Fact], ...] = Fact.__args__


def plain(fact: Fact) -> dict[str, Any]:
    """Return the keys of the fact in the stream and in the ledger; values are as they are."""
    match fact:
        case StateChanged():
            known = {"from": fact.source, "to": fact.target}
            return {**known, "trigger": fact.trigger, "reasons": list(fact.reasons)}
        case AttemptEnded():
            return {**_fields(fact.attempt), "next_retry_at": fact.next_retry_at}
        case _:
            return _fields(fact)


def _fields(record: Any) -> dict[str, Any]:  # noqa: ANN401  any Struct
    """Return a record as a dictionary, without a copy of what is in it."""
    return {name: getattr(record, name) for name in record.__struct_fields__}
