"""The numbers that the core and the attempt obey; `settings` fills them in."""

from dataclasses import dataclass, field

__all__ = ("BackoffPolicy", "Checks", "Deadlines", "FailbackPolicy", "Policy")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each phase of an attempt may take, in seconds on the monotonic clock."""

    discover_s: float = 2.0
    resolve_s: float = 2.0
    tcp_s: float = 2.0
    health_s: float = 2.0
    identity_s: float = 2.0
    local_node_s: float = 10.0
    """A fresh head's raylet comes 2 s after its GCS; a dead cluster's lingers for half a minute."""
    spawn_s: float = 10.0
    init_s: float = 20.0
    """4-6 s is normal on a head that has just started."""
    client_init_s: float = 8.0
    """By Ray Client: 3-4 s is normal, and where the head's GCS hangs it would be 30."""
    nodes_s: float = 10.0
    attempt_s: float = 50.0
    """For the attempt as a whole, all its candidates together."""


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How failed attempts are spaced, in seconds."""

    initial_s: float = 1.0
    max_s: float = 60.0
    gap_s: float = 1.0
    """Never sooner than this after the end of a failed attempt."""
    stable_s: float = 30.0
    """Connected for this long resets the count of attempts."""


@dataclass(frozen=True, slots=True)
class Checks:
    """How an attachment is watched, in seconds."""

    interval_s: float = 2.0
    timeout_s: float = 1.0
    """An answer later than this is a miss; a second ask follows at once."""
    grace_s: float = 20.0
    """How long an attachment reason may last before the session is given up (Ray's own is 60)."""


@dataclass(frozen=True, slots=True)
class FailbackPolicy:
    """When an attachment moves to a preferred candidate of another cluster, in seconds."""

    good_s: float = 60.0
    """It must have been good for so long; doubled by each move that did not last."""
    max_s: float = 3600.0
    """The longest hold; attached to the preferred one for so long, the hold starts anew."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What `step` needs to decide."""

    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    checks: Checks = field(default_factory=Checks)
    failback: FailbackPolicy = field(default_factory=FailbackPolicy)
    fallback_after_s: float | None = None
    """After so long out of reach a local cluster is started; None: never."""
    min_nodes: int = 1
    settle_s: float = 10.0
    """After an attach, what may still settle (nodes, casting nodes) counts only after this long."""
