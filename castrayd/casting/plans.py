"""Transfers as the ledger keeps them, and how one is cut into chunks. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

__all__ = ("ACTIVE", "SETTLED", "Part", "Transfer", "plan", "sizes")

ACTIVE: Final = frozenset({"queued", "running", "interrupted"})
"""States in which a transfer goes on by itself."""
SETTLED: Final = frozenset({"done", "failed"})
"""States of a recipient of which nothing more becomes."""

MIB: Final = 2**20
CHUNK_BYTES: Final = 16 * MIB
LEAST_CHUNK_BYTES: Final = 256 * 1024
WINDOW_BYTES: Final = 128 * MIB
"""In flight at most, where the object stores are large."""
STORE_SHARE: Final = 0.15
"""Of the smallest object store that takes part: the users' own objects come first."""
MOST_CHUNKS: Final = 8


class Part(Struct, frozen=True):
    """One recipient of a transfer."""

    recipient: str
    path: str | None = None
    """As it is there, once it is done."""
    state: str = "queued"
    bytes_verified: int = 0
    bytes_sent: int = 0
    """What was really sent to it, by all senders that there were."""
    sent_before: int = 0
    """Of these what senders before the last one have sent."""
    sha256: str | None = None
    error: Mapping[str, str] | None = None
    skipped: bool = False
    """The same file was there."""
    counted: bool = False
    """Whether its bytes are in the statistics."""


class Transfer(Struct, frozen=True):
    """One transfer; the ledger has it from the moment it is accepted."""

    id: str
    created_at: str
    node: str | None
    """Whose file it is; None for an upload."""
    source: str
    """`root:relative` on that node, or the upload's name."""
    path: str
    """`root:relative` at every recipient."""
    parts: tuple[Part, ...]
    if_exists: str = "refuse"
    bandwidth_bytes_s: int | None = None
    state: str = "queued"
    reason: str | None = None
    """Why it waits, or has failed as a whole."""
    chunk_bytes: int | None = None
    bytes_total: int | None = None
    """Its size, with `mtime_ns` and `sha256` as they were when they were first told: recipients
    of one transfer have one file."""
    mtime_ns: int | None = None
    sha256: str | None = None
    finished_at: str | None = None

    @property
    def bytes_verified(self) -> int:
        """What has been verified at all recipients together."""
        return sum(part.bytes_verified for part in self.parts)

    @property
    def bytes_carried(self) -> int:
        """As many, but for what was there before."""
        return sum(part.bytes_verified for part in self.parts if not part.skipped)


def sizes(stores: Iterable[float], rate: int | None) -> tuple[int, int]:
    """Return the bytes of a chunk, and how many chunks may be in flight.

    `stores` are the bytes of the object stores that take part. With a limit of `rate` bytes a
    second a chunk takes at most a quarter of a second.
    """
    room = min([WINDOW_BYTES, *(STORE_SHARE * store for store in stores)])
    chunk = CHUNK_BYTES
    while chunk > LEAST_CHUNK_BYTES and (chunk * 2 > room or (rate and chunk > rate / 4)):
        chunk //= 2
    return chunk, int(max(2, min(MOST_CHUNKS, room // chunk)))


def plan(transfer: Transfer, window: int, source: str, patience_s: float) -> dict[str, Any]:
    """Return what the sender is told: only what is not done yet.

    `identity` is what is known of the file; the one that is there now must be that one.
    """
    return {
        "id": transfer.id,
        "source": source,
        "identity": {
            "size": transfer.bytes_total,
            "mtime_ns": transfer.mtime_ns,
            "sha256": transfer.sha256,
        },
        "path": transfer.path,
        "chunk_bytes": transfer.chunk_bytes,
        "window": window,
        "if_exists": transfer.if_exists,
        "rate": transfer.bandwidth_bytes_s,
        "patience_s": patience_s,
        "recipients": [p.recipient for p in transfer.parts if p.state not in SETTLED],
    }
