"""What the API shows: frozen records, encoded as they are; their fields are the JSON's keys.

Structs, as the facts of `telemetry` are: a dataclass takes fifty times as long to make, and the
daemon's start would pay for it.
"""

from collections.abc import Mapping

from msgspec import Struct, field

from castrayd.core.states import Desired, Mode, Outcome, State, Trigger
from castrayd.errors import Fault

__all__ = (
    "AddressDocument",
    "AttemptDocument",
    "CandidateDocument",
    "CastingDocument",
    "ClusterDocument",
    "DaemonDocument",
    "NodeDocument",
    "SessionDocument",
    "StandingWarning",
    "StateDocument",
    "Status",
    "TransfersDocument",
)


class DaemonDocument(Struct, frozen=True):
    """The daemon itself."""

    id: str
    """Lasting, the same after a restart."""
    version: str
    pid: int
    started_at: str
    uptime_s: float


class AddressDocument(Struct, frozen=True):
    """The address attached to, or tried last."""

    url: str
    source: str
    mode: Mode


class SessionDocument(Struct, frozen=True):
    """The child process that holds the Ray driver."""

    id: str
    pid: int
    python: str
    ray: str
    standby: bool
    """Whether it stood by, warm, before this attachment."""


class ClusterDocument(Struct, frozen=True):
    """The cluster as the session sees it."""

    id: str | None
    ray_version: str
    dashboard_url: str | None
    nodes_alive: int
    nodes_dead: int
    resources_total: Mapping[str, float]
    resources_available: Mapping[str, float] | None
    """None while unknown."""


class CandidateDocument(Struct, frozen=True):
    """One candidate of an attempt, with what became of it."""

    address: str
    source: str
    phases: Mapping[str, float]
    """Seconds per phase; a phase not reached is absent, a failed one has its time to failure."""
    error: Fault | None
    seen: Mapping[str, str | None] = field(default_factory=dict)
    """By name: `addresses` that were resolved, the one `connected_to`, `cluster_id`, `ray_there`,
    `ray_here`, `raylet_pid`, `socket`, `session_name`; None for what the peer did not tell."""


class AttemptDocument(Struct, frozen=True):
    """One attempt; phases and error are those of the candidate that decided."""

    id: str
    number: int
    trigger: Trigger
    outcome: Outcome | None
    """None while it is under way."""
    started_at: str
    duration_s: float
    """Of the attempt alone; so far, while it is under way."""
    phases: Mapping[str, float]
    error: Fault | None
    address: str | None
    """Of the candidate that decided, or is under way."""
    source: str | None
    candidates: tuple[CandidateDocument, ...]
    seen: Mapping[str, str | None] = field(default_factory=dict)
    """That of the candidate that decided."""


class StateDocument(Struct, frozen=True):
    """How often and how long a state was held since the daemon's start."""

    count: int
    total_s: float
    last_at: str | None


class CastingDocument(Struct, frozen=True):
    """Casting nodes: wanted and ready."""

    desired: int = 0
    ready: int = 0


class TransfersDocument(Struct, frozen=True):
    """Transfers since the daemon's start."""

    active: int = 0
    completed: int = 0
    failed: int = 0
    bytes: int = 0


class StandingWarning(Struct, frozen=True):
    """Something an operator should look at, that is no fault of the attachment."""

    code: str
    severity: str
    message: str
    hint: str
    since: str


class NodeDocument(Struct, frozen=True):
    """One Ray node, with the casting nodes on it."""

    node_id: str
    alive: bool
    address: str
    hostname: str
    head: bool
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    death_reason: str | None
    casting_nodes: tuple[str, ...] = ()
    use: Mapping[str, float | None] | None = None
    """Read there by a casting node: shares from 0 to 1, sizes in bytes; None where unknown."""


class Status(Struct, frozen=True):
    """The whole truth, one document."""

    daemon: DaemonDocument
    state: State
    since: str
    state_s: float
    """How long it has been so; on a clock that nobody sets."""
    desired: Desired
    desired_by: str
    desired_reason: str
    error: Fault | None
    reasons: tuple[Fault, ...]
    address: AddressDocument | None
    namespace: str
    session: SessionDocument | None
    cluster: ClusterDocument | None
    attempt: AttemptDocument | None
    next_retry_at: str | None
    next_retry_in_s: float | None
    states: Mapping[str, StateDocument]
    warnings: tuple[StandingWarning, ...]
    casting: CastingDocument = field(default_factory=CastingDocument)
    transfers: TransfersDocument = field(default_factory=TransfersDocument)
    api_version: int = 1
