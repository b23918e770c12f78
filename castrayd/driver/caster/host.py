"""What a casting node tells of its host, read there: processor, memory, disk, object store.

What cannot be read is None, never a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ("Host",)


class Host:
    """One per casting node. The processor's use is that between two looks."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._last = _known(_cpu_times)

    def facts(self) -> dict[str, Any]:
        """Return the host's use: shares from 0 to 1, sizes in bytes."""
        return {
            "cpu_used": self._cpu(),
            "cpus": os.cpu_count(),
            "load_1m": _known(lambda: os.getloadavg()[0]),
            **_memory(),
            **self._disk(),
            "object_store_used_bytes": _known(_object_store_used),
        }

    def _cpu(self) -> float | None:
        before, self._last = self._last, _known(_cpu_times)
        if before is None or self._last is None or self._last[1] == before[1]:
            return None
        busy, whole = self._last[0] - before[0], self._last[1] - before[1]
        return float(round(busy / whole, 4))

    def _disk(self) -> dict[str, Any]:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return {"disk_total_bytes": None, "disk_free_bytes": None}
        return {
            "disk_total_bytes": disk.f_blocks * disk.f_frsize,
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
        }


def _known(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception:  # noqa: BLE001  /proc and Ray's own names differ: unknown, no failure
        return None


def _cpu_times() -> tuple[int, int]:
    """Return the ticks spent busy, and all ticks, since the host's start. Source: proc(5)."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _memory() -> dict[str, Any]:
    sizes: dict[str, int] = {}
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                sizes[name] = int(rest.split()[0]) * 1024
    except OSError:
        pass
    return {
        "memory_total_bytes": sizes.get("MemTotal"),
        "memory_available_bytes": sizes.get("MemAvailable"),
    }


def _object_store_used() -> int:
    """Ask this node's raylet; Ray has no public name for it."""
    import ray  # noqa: PLC0415
    from ray._private.internal_api import node_stats  # noqa: PLC0415

    own = ray.get_runtime_context().get_node_id()
    node = next(one for one in ray.nodes() if one["NodeID"] == own)
    where = node["NodeManagerAddress"], node["NodeManagerPort"]
    stats = node_stats(*where, include_memory_info=False)
    return int(stats.store_stats.object_store_bytes_used)
