"""What the API shows of casting: frozen records, encoded as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ("CastDocument", "CastingNodeDocument", "GroupDocument", "Outcome", "Receipt")

Outcome = Literal["delivered", "sent", "refused", "unreachable", "timed_out", "cancelled"]
"""What became of a message at one recipient. `sent`: handed to the network by UDP, where nobody
confirms; `timed_out`: unknown, it may have come."""


@dataclass(frozen=True, slots=True)
class CastingNodeDocument:
    """One casting node."""

    name: str
    owner: str
    """The lasting id of the daemon that made it."""
    state: Literal["ready", "pending", "lost"]
    required: bool
    ray_node_id: str | None
    address: str | None
    hostname: str | None
    port: int | None
    """Of UDP; None where it has none, or is not ready."""
    roots: Mapping[str, str] = field(default_factory=dict)
    """Absolute paths on its host, by name."""
    inbox: Mapping[str, int] | None = None
    """`waiting`, `capacity`, `refused` and `last_seq`; None while unknown."""
    reason: str | None = None
    """Why it is not ready, or what of it does not work."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a message at one recipient."""

    recipient: str
    outcome: Outcome
    latency_s: float
    """From the request until this was known."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CastDocument:
    """One message, and what became of it at each of those that it was meant for."""

    id: str
    delivered: int
    failed: int
    receipts: Sequence[Receipt]


@dataclass(frozen=True, slots=True)
class GroupDocument:
    """A named set of casting nodes."""

    name: str
    members: Sequence[str]
    version: int
    """Rises with every change; a cast records the members that it meant."""
