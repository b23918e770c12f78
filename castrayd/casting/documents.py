"""What the API shows of casting: frozen records, encoded as they are."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

__all__ = (
    "CastDocument",
    "CastingNodeDocument",
    "GroupDocument",
    "Outcome",
    "PartDocument",
    "PurgeDocument",
    "Receipt",
    "TransferDocument",
)

Outcome = Literal["delivered", "sent", "refused", "unreachable", "timed_out", "cancelled"]
"""What became of a message at one recipient. `sent`: handed to the network by UDP, where nobody
confirms; `timed_out`: unknown, it may have come."""


class CastingNodeDocument(Struct, frozen=True):
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

    @classmethod
    def ready(cls, facts: Mapping[str, Any]) -> "CastingNodeDocument":
        """Show a node that has just said this of itself."""
        return cls(
            name=facts["name"],
            owner=facts["owner"],
            state="ready",
            required=facts["required"],
            ray_node_id=facts["node_id"],
            address=facts["address"],
            hostname=facts["hostname"],
            port=facts["port"],
            roots=facts["roots"],
            inbox=facts["inbox"],
            reason=facts["reason"],
        )


class PurgeDocument(Struct, frozen=True):
    """What became of all the casting nodes that one daemon had."""

    removed: Sequence[str]
    left: Sequence[str]
    """That could not be removed now: they are when they answer, or when their cluster is back."""


class Receipt(Struct, frozen=True):
    """What became of a message at one recipient."""

    recipient: str
    outcome: Outcome
    latency_s: float
    """From the request until this was known."""
    error: str | None = None


class CastDocument(Struct, frozen=True):
    """One message, and what became of it at each of those that it was meant for."""

    id: str
    delivered: int
    failed: int
    receipts: Sequence[Receipt]


class PartDocument(Struct, frozen=True):
    """One recipient of a transfer."""

    recipient: str
    state: str
    """`queued`, `running`, `done`, `failed` or `cancelled`."""
    bytes_verified: int
    """That the recipient has verified and written."""
    bytes_sent: int
    """That were really sent to it, repetitions included."""
    sha256: str | None
    path: str | None
    """Where it is there, once it is done."""
    skipped: bool = False
    """The same file was there already."""
    error: Mapping[str, str] | None = None


class TransferDocument(Struct, frozen=True):
    """One file on its way to recipients, or arrived."""

    id: str
    state: str
    """`queued`, `running`, `interrupted`, `done`, `partial`, `failed` or `cancelled`."""
    created_at: str
    finished_at: str | None
    source: Mapping[str, str]
    path: str
    bytes_total: int | None
    """Of the file; None while unknown, as is everything else that is None."""
    bytes_verified: int
    """At all recipients together."""
    sha256: str | None
    speed_bytes_s: float | None
    """Of verified bytes, in the last seconds."""
    eta_s: float | None
    recipients: Sequence[PartDocument]
    reason: str | None = None
    """Why it waits, or has failed."""


class GroupDocument(Struct, frozen=True):
    """A named set of casting nodes."""

    name: str
    members: Sequence[str]
    version: int
    """Rises with every change; a cast records the members that it meant."""
