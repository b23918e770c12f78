"""All that the core remembers of the attachment, in one frozen record."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from castrayd.core.cluster import Place
from castrayd.core.commands import AttemptRef, Slot
from castrayd.core.health import Health
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import Fault

__all__ = ("Snapshot",)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the machine between two events."""

    run_id: str
    """Prefix of attempt ids; fresh for each run of the daemon."""
    state: State = State.DISCONNECTED
    since_s: float = 0.0
    """When the state was entered, in monotonic seconds."""
    desired: Desired = Desired.UP
    stopping: bool = False
    epoch: int = 0
    """The last one given out."""
    awaiting: Mapping[Slot, int] = field(default_factory=dict)
    """The epoch of the command under way in each slot."""
    serial: int = 0
    """Attempts since the daemon's start, planned ones included."""
    counted: int = 0
    """Attempts since the last stable connection."""
    attempt: AttemptRef | None = None
    """The attempt under way; in the attached states the one that succeeded."""
    began_s: float = 0.0
    """When the last attempt began."""
    planned: AttemptRef | None = None
    """The attempt that begins when the end under way is done."""
    attached_s: float | None = None
    """When this session was attached; None without one."""
    settled: bool = False
    place: Place | None = None
    """Where the attachment stands among the candidates; None without one."""
    home: str | None = None
    """The cluster that was attached last as the preferred one, by its id."""
    cues: frozenset[Trigger] = frozenset()
    """What is looked for, while the slot of cues is awaited."""
    failbacks: int = 0
    """Moves to a preferred candidate that did not last; each doubles the hold of the next."""
    unreachable_s: float | None = None
    """Since when every candidate has been out of reach; None while one is not."""
    health: Health = field(default_factory=Health)
    reasons: tuple[Fault, ...] = ()
    """Why the state is degraded, the root cause first."""
    error: Fault | None = None
    """The last fault; None while connected."""
    retry_at_s: float | None = None

    @property
    def ending(self) -> bool:
        """Whether a session or an attempt is being ended."""
        return Slot.END in self.awaiting

    @property
    def wants_attempts(self) -> bool:
        """Whether an attempt may begin at all."""
        return self.desired is Desired.UP and not self.stopping
