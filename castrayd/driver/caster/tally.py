"""What one recipient has of a file, and what it was sent: counted where it is known, never before.

Read for progress from any thread, kept by one.
"""

from __future__ import annotations

from typing import Any

from castrayd.driver.caster.source import Source

__all__ = ("Tally", "standing")


def standing(name: str, state: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return where a recipient stands of whom nothing more is known."""
    return {
        "recipient": name,
        "state": state,
        "bytes_verified": None,
        "bytes_sent": 0,
        "sha256": None,
        "path": None,
        "error": error,
        "skipped": False,
    }


class Tally:
    """The chunks and bytes of one recipient."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._claimed: dict[int, bytes] = {}
        self._held: set[int] = set()
        self.verified = 0
        """Bytes that it has verified and written, as it has said."""
        self.has_told = False
        """Whether it has said what it has."""
        self.sent = 0
        """Bytes that it has received, each time that it did, as it has said."""

    def resume(self, have: list[list[Any]]) -> None:
        """Begin anew with what it says it has; that counts where the source has the same."""
        self._claimed = {index: bytes.fromhex(digest) for index, digest in have}
        self._held = set()
        self.verified, self.has_told = 0, True
        for index in self._claimed:
            digest = self._source.digests[index]
            if digest is not None:
                self.compare(index, digest)

    def compare(self, index: int, digest: bytes) -> None:
        """Learn what the source has: a chunk that was claimed and is the same counts."""
        if self._claimed.get(index) == digest:
            self.hold(index)

    def hold(self, index: int) -> None:
        """Count a chunk as verified, once."""
        self.has_told = True
        if index not in self._held:
            self._held.add(index)
            self.verified += self._source.length(index)

    def lacks(self, index: int) -> bool:
        """Whether a chunk is not held, as far as is known."""
        return index not in self._held

    def claims(self, index: int) -> bool:
        """Whether it says it has a chunk, the same one or not."""
        return index in self._claimed or index in self._held
