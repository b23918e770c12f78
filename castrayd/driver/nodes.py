"""The node map: read from the GCS, and told as changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ("NodeMap",)

READ_SHARE = 20.0
"""Reading the map may take a twentieth of the time: ten thousand nodes are read less often."""
AVAILABLE_EVERY_S = 10.0


class NodeMap:
    """The last map that was told. Used by one lane."""

    def __init__(self, ray: Any, push: Callable[[str, dict[str, Any]], None]) -> None:
        self._ray = ray
        self._push = push
        self._told: dict[str, dict[str, Any]] = {}
        self._next_s = 0.0
        self._next_available_s = 0.0

    def load(self) -> list[dict[str, Any]]:
        """Read the whole map and take it as told."""
        self._told = self._read()
        return list(self._told.values())

    def available(self) -> dict[str, float] | None:
        """Read what is free in the cluster."""
        self._next_available_s = time.monotonic() + AVAILABLE_EVERY_S
        free = self._ray.available_resources()
        return {name: amount for name, amount in free.items() if not name.startswith("node:")}

    def refresh(self) -> None:
        """Ask the GCS, and push what has changed since the map was told."""
        now = time.monotonic()
        if now < self._next_s:
            return
        seen = self._read()
        changed = [node for key, node in seen.items() if self._told.get(key) != node]
        gone = [key for key in self._told if key not in seen]
        self._told = seen
        free = self.available() if now >= self._next_available_s else None
        if changed or gone or free is not None:
            self._push("nodes", {"nodes": changed, "gone": gone, "available": free})

    def _read(self) -> dict[str, dict[str, Any]]:
        began = time.monotonic()
        nodes = {node["NodeID"]: _plain(node) for node in self._ray.nodes()}
        ended = time.monotonic()
        self._next_s = ended + (ended - began) * READ_SHARE
        return nodes


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    resources = node.get("Resources", {})
    reason = node.get("DeathReasonMessage") or None
    return {
        "node_id": node["NodeID"],
        "alive": bool(node["Alive"]),
        "address": node.get("NodeManagerAddress", ""),
        "hostname": node.get("NodeManagerHostname", ""),
        "port": int(node.get("NodeManagerPort") or 0),
        "head": "node:__internal_head__" in resources,
        "resources": {k: v for k, v in resources.items() if not k.startswith("node:")},
        "labels": dict(node.get("Labels") or {}),
        "death_reason": reason,
    }
