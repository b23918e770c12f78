"""The casting node itself: what others may call. Every method returns plain data.

Ray runs the methods in threads, a group each, so that a status never waits behind data. Messages
have one thread: what is sent in order is taken in order.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import threading
import time
from typing import Any

from castrayd.driver.caster.host import Host
from castrayd.driver.caster.inbox import WAITING_READERS, Inbox
from castrayd.driver.caster.incoming import Incoming, default_reserve
from castrayd.driver.caster.outgoing import Outgoing
from castrayd.driver.caster.roots import Roots, answered
from castrayd.driver.caster.turn import Turn
from castrayd.driver.caster.udp import UdpPort

__all__ = ("GROUPS", "METHODS", "PROTOCOL", "Caster", "actor_name")

PROTOCOL = 1
"""Of the methods and what they take; part of every actor's name.

None before it has been released: there is no N-1 yet that a daemon would have to know.
"""
GROUPS = {
    "control": 4, "look": 4, "messages": 1, "read": WAITING_READERS + 4, "data": 8, "ends": 16,
}  # fmt: skip
"""Threads by group of methods. Readers that wait leave some to those that only look."""
METHODS = {
    "control": ("describe", "send", "sending", "cancel_sending"),
    "look": ("host", "datagram", "files"),
    "ends": ("ended",),
    "data": ("file_begin", "file_take", "file_finish", "file_abandon"),
    "messages": ("deliver",),
    "read": ("read",),
}
"""Which method runs in which group. What another disk than the inbox's, or a name server, may
hold up is not in control."""
_TOLD = ("name", "owner", "required", "address", "hostname", "made_of")
"""Of what it was made of, what it tells."""
_ENDED_KEPT = 100
"""Transfers that have ended, and can still be asked about."""
_SWEEP_S = 3600.0
_ABANDONED_S = 7 * 86400.0
"""Since anybody went on with it, after which a partial file is nobody's."""


def actor_name(name: str) -> str:
    """Return the name under which Ray knows a casting node."""
    return f"castray:{PROTOCOL}:{name}"


class Caster:
    """One casting node; `spec` is what `driver.casting` was told to make."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        base = os.path.expanduser(spec["data_dir"])
        self._folder = os.path.join(base, spec["namespace"], spec["name"])
        files = os.path.join(self._folder, "files")
        os.makedirs(files, exist_ok=True)
        self._turn = Turn(self._folder, spec["owner"], spec["made"])
        self._turn.take()
        self._roots = {"files": {"path": files, "write": True}, **spec["roots"]}
        self._inbox = Inbox(self._folder, spec["inbox_capacity"], spec["dedupe_window"])
        self._host = Host(self._folder)
        self._files = Roots(self._roots)
        reserve = default_reserve if spec["disk_reserve"] is None else spec["disk_reserve"]
        self._incoming = Incoming(self._files, self._folder, reserve)
        self._outgoing: dict[str, Outgoing] = {}
        self._begins = threading.Lock()
        self._udp, self._udp_error = self._open_port()
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def _sweep(self) -> None:
        """Remove what nobody has gone on with for days: its sender may never have said so."""
        while True:
            with contextlib.suppress(OSError):
                self._incoming.sweep(_ABANDONED_S)
            time.sleep(_SWEEP_S)

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
        outgoing = list(self._outgoing.values())
        return {
            "protocol": PROTOCOL,
            **{key: spec[key] for key in _TOLD},
            "sending": sum(one.progress()["state"] == "running" for one in outgoing),
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
        """Return messages after `since`, each body as JSON; see `Inbox.read`."""
        found = self._inbox.read(since, limit, acknowledge=acknowledge, wait_s=wait_s)
        return {"messages": found}

    def datagram(self, host: str, port: int, text: str) -> str | None:
        """Send one datagram from this node's port; returns why not, or None when it is off."""
        if self._udp is None:
            return self._udp_error or "this node has no UDP port"
        try:
            self._udp.send(host, port, text.encode())
        except OSError as error:
            return str(error)
        return None

    # --- files ---

    def files(self, path: str, limit: int) -> dict[str, Any]:
        """List a folder; see `Roots.listing`."""
        return answered(path, lambda: {"files": self._files.listing(path, limit)})

    def send(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Begin to send a file, unless that is under way; returns how far it is."""
        with self._begins:  # two calls of one transfer may have been waiting
            running = self._outgoing.get(plan["id"])
            if running is None or running.progress()["state"] != "running":
                running = self._begun(plan)
        return running.progress()

    def _begun(self, plan: dict[str, Any]) -> Outgoing:
        actors = [{"name": name, "actor": actor_name(name)} for name in plan["recipients"]]
        sender = Outgoing({**plan, "recipients": actors}, self._files, self._spec["namespace"])
        self._outgoing.pop(plan["id"], None)
        self._outgoing[plan["id"]] = sender
        self._forget()
        sender.start()
        return sender

    def _forget(self) -> None:
        ended = [i for i, one in self._outgoing.items() if one.progress()["state"] != "running"]
        for id_ in ended[: max(0, len(self._outgoing) - _ENDED_KEPT)]:
            del self._outgoing[id_]

    def sending(self, transfer: str) -> dict[str, Any] | None:
        """Return how far a file is, or None where this process knows nothing of it."""
        one = self._outgoing.get(transfer)
        return one.progress() if one else None

    def ended(self, transfer: str, wait_s: float) -> None:
        """Wait so long for the end of what this process sends."""
        one = self._outgoing.get(transfer)
        if one is not None:
            one.wait(wait_s)

    def cancel_sending(self, transfer: str) -> None:
        """Stop sending a file; what recipients have of it is removed."""
        one = self._outgoing.get(transfer)
        if one is not None:
            one.cancel()

    def file_begin(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Begin or resume receiving; see `Incoming.begin`."""
        return self._incoming.begin(spec)

    def file_take(
        self,
        transfer: str,
        chunk: dict[str, Any],
        refs: list[Any],
        relay: bool,  # noqa: FBT001
    ) -> dict[str, Any]:
        """Fetch and write a chunk; see `Incoming.fetch`."""
        return self._incoming.fetch(transfer, chunk, refs, relay)

    def file_finish(
        self, transfer: str, sha256: str, chunks: str, mode: int | None = None
    ) -> dict[str, Any]:
        """Publish a file that is whole; see `Incoming.finish`."""
        return self._incoming.finish(transfer, sha256, chunks, mode)

    def file_abandon(self, transfer: str) -> dict[str, Any]:
        """Remove what there is of an unfinished file."""
        return self._incoming.abandon(transfer)
