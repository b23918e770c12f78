"""The status document, encoded: one rendering serves all who ask at the same time.

Rendering costs a third of a request, with thousands of nodes far more. What was rendered is
served again only while nothing has happened since, and for a few milliseconds, in which no more
than its stop-watches could differ.
"""

from collections.abc import Callable
from typing import Final

from castrayd.core.snapshot import Snapshot
from castrayd.supervisor.service import AttachmentService
from castrayd.telemetry.encoding import to_json

__all__ = ("RenderedStatus",)

FRESH_S: Final = 0.005


class RenderedStatus:
    """GET /api/status, as bytes."""

    def __init__(self, service: AttachmentService, now: Callable[[], float]) -> None:
        self._service = service
        self._now = now
        self._body = b""
        self._until_s = float("-inf")
        self._snapshot: Snapshot | None = None
        self._seq = -1

    def body(self) -> bytes:
        """Return the document; no older than `FRESH_S`, nor than the last thing that happened."""
        now_s = self._now()
        service = self._service
        snapshot, seq = service.snapshot, service.events.last_seq
        if now_s >= self._until_s or snapshot is not self._snapshot or seq != self._seq:
            self._body = to_json(service.status())
            self._snapshot, self._seq, self._until_s = snapshot, seq, now_s + FRESH_S
        return self._body

    def forget(self) -> None:
        """Render anew next time: whoever has changed something must see it."""
        self._until_s = float("-inf")
