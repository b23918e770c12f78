"""What was seen last of this daemon's own casting nodes, and who is told when that changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from castrayd.casting.documents import CastingNodeDocument
from castrayd.casting.wanted import WantedNode
from castrayd.telemetry.facts import CasterLost, CasterReady
from castrayd.telemetry.publisher import Publisher

__all__ = ("Sighting", "Sightings")


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen of a node last."""

    facts: Mapping[str, Any] | None = None
    """What it says of itself; None while it is not ready."""
    reason: str | None = None
    was_ready: bool = False
    misses: int = 0
    """Answers in a row that did not come in time; one is noise on a busy host."""


class Sightings:
    """The last look at each node, by name."""

    def __init__(self, publisher: Publisher, daemon_id: str) -> None:
        self._publisher = publisher
        self._daemon_id = daemon_id
        self._seen: dict[str, Sighting] = {}

    def of(self, name: str) -> Sighting:
        """Return the last look at a node, an empty one where there was none."""
        return self._seen.get(name, Sighting())

    def note(self, name: str, facts: Mapping[str, Any] | None, reason: str | None) -> None:
        """Take in what was seen of a node; tell what has changed."""
        before = self.of(name)
        self._seen[name] = Sighting(facts, reason, before.was_ready or facts is not None)
        if facts is not None and before.facts is None:
            self._publisher.publish(CasterReady(name, facts["node_id"], facts["address"]))
        elif facts is None and (before.facts is not None or before.reason != reason):
            self._publisher.publish(CasterLost(name, reason or "unknown"))

    def miss(self, name: str) -> None:
        """Note that an answer did not come in time, which tells nothing yet."""
        seen = self.of(name)
        self._seen[name] = replace(seen, misses=seen.misses + 1)

    def blind(self) -> None:
        """See no node any more: there is another attachment, or none."""
        self._seen = {
            name: replace(seen, facts=None, reason="not attached")
            for name, seen in self._seen.items()
        }

    def forget(self, name: str) -> None:
        """Know nothing of a node."""
        self._seen.pop(name, None)

    def ready(self) -> dict[str, Mapping[str, Any]]:
        """Return what the nodes that are ready say of themselves, by name."""
        return {name: seen.facts for name, seen in self._seen.items() if seen.facts is not None}

    def document(self, one: WantedNode) -> CastingNodeDocument:
        """Return a wanted node as it was seen last."""
        seen = self.of(one.name)
        if seen.facts is not None:
            return CastingNodeDocument.ready(seen.facts)
        return CastingNodeDocument(
            name=one.name,
            owner=self._daemon_id,
            state="lost" if seen.was_ready else "pending",
            required=one.required,
            ray_node_id=one.node_id,
            address=one.address,
            hostname=one.hostname,
            port=None,
            reason=seen.reason or "no cluster is attached",
        )
