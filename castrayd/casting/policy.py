"""What the settings say of casting, as its parts ask for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ("CastingPolicy",)


@dataclass(frozen=True, slots=True)
class CastingPolicy:
    """What the settings say of casting."""

    data_dir: str
    """On each host, `~` is the home of the raylet's user there."""
    inbox_messages: int
    dedupe_messages: int
    roots: Mapping[str, Mapping[str, Any]]
    upload_bytes: int
    upload_s: float
    disk_reserve_bytes: int | None
    follow: bool
    """Whether wanted nodes are made on another cluster than the wanted one, too."""
    patience_s: float
    """How long a transfer waits for a sender or a recipient that does not answer."""
