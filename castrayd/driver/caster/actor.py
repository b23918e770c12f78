"""The casting node itself: what others may call. Every method returns plain data.

Ray runs the methods in threads, a group each, so that a status never waits behind data. Messages
have one thread: what is sent in order is taken in order.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from typing import Any

from castrayd.driver.caster.host import Host
from castrayd.driver.caster.inbox import Inbox
from castrayd.driver.caster.udp import UdpPort

__all__ = ("GROUPS", "METHODS", "PROTOCOL", "Caster")

PROTOCOL = 1
"""Of the methods and what they take; part of every actor's name."""
GROUPS = {"control": 4, "messages": 1, "read": 16, "data": 8}
"""Threads by group of methods."""
METHODS = {
    "control": ("describe", "host", "datagram"),
    "messages": ("deliver",),
    "read": ("read",),
}
"""Which method runs in which group."""
_READ_BYTES = 4 * 1024 * 1024
"""At most so much goes out in one read of the inbox."""


class Caster:
    """One casting node; `spec` is what `driver.casting` was told to make."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        base = os.path.expanduser(spec["data_dir"])
        self._folder = os.path.join(base, spec["namespace"], spec["name"])
        files = os.path.join(self._folder, "files")
        os.makedirs(files, exist_ok=True)
        self._roots = {"files": {"path": files, "write": True}, **spec["roots"]}
        self._inbox = Inbox(self._folder, spec["inbox_capacity"], spec["dedupe_window"])
        self._host = Host(self._folder)
        self._udp, self._udp_error = self._open_port()

    def _open_port(self) -> tuple[UdpPort | None, str | None]:
        """Open the port that is wanted; any free one stays the same over restarts."""
        wanted = self._spec["port"]
        if wanted is None:
            return None, None
        kept = self._inbox.get("port") if wanted == 0 else wanted
        for port in (kept, wanted):
            try:
                udp = UdpPort(self._spec["address"], port or 0, self._inbox)
            except OSError as error:
                failure = f"UDP port {port}: {error}"
            else:
                self._inbox.put("port", udp.port)
                return udp, None
        return None, failure

    def describe(self) -> dict[str, Any]:
        """Return what the node is: owner, place, port, roots and how full its inbox is."""
        import ray  # noqa: PLC0415

        spec = self._spec
        return {
            "protocol": PROTOCOL,
            **{key: spec[key] for key in ("name", "owner", "required", "address", "hostname")},
            "node_id": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "port": self._udp.port if self._udp else None,
            "reason": self._udp_error,
            "roots": {name: root["path"] for name, root in self._roots.items()},
            "inbox": self._inbox.facts(),
        }

    def host(self) -> dict[str, Any]:
        """Return the use of the host that this node is on."""
        return self._host.facts()

    def deliver(self, messages: list[list[str]]) -> list[str]:
        """Take messages `[id, sender, body as JSON]`; returns an outcome for each, in order."""
        try:
            return self._inbox.accept([(one[0], one[1], one[2]) for one in messages])
        except sqlite3.Error as error:
            return [f"refused: {error}"] * len(messages)

    def read(self, since: int, limit: int, acknowledge: bool, wait_s: float) -> dict[str, Any]:  # noqa: FBT001
        """Return messages after `since`; see `Inbox.read`. Never more than fits the wire."""
        found = self._inbox.read(since, limit, acknowledge=acknowledge, wait_s=wait_s)
        size = 0
        kept: list[dict[str, Any]] = []
        for message in found["messages"]:
            size += len(json.dumps(message))
            if kept and size > _READ_BYTES:
                break
            kept.append(message)
        return {"messages": kept}

    def datagram(self, host: str, port: int, text: str) -> str | None:
        """Send one datagram from this node's port; returns why not, or None when it is off."""
        if self._udp is None:
            return self._udp_error or "this node has no UDP port"
        try:
            self._udp.send(host, port, text.encode())
        except OSError as error:
            return str(error)
        return None
