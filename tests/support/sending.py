"""A sender and receiving nodes in one process for unit tests: no Ray, but real files."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from castrayd.driver.caster import recipient, remote, sending
from castrayd.driver.caster.incoming import Incoming
from castrayd.driver.caster.outgoing import Outgoing
from castrayd.driver.caster.remote import Gone
from castrayd.driver.caster.roots import Roots

__all__ = ("CHUNK", "COUNT", "SIZE", "Node", "World", "gone", "made_world", "once", "refusal")

CHUNK = 1000
COUNT = 20
SIZE = CHUNK * COUNT - 300

Fault = Callable[[str, tuple[Any, ...]], dict[str, Any] | None]
"""Looks at a call; returns an answer in its stead, raises Gone, or None to let it through."""


class Node:
    """A receiving node in this process."""

    def __init__(self, folder: Path) -> None:
        (folder / "files").mkdir(parents=True)
        self.files = folder / "files"
        self.folder = folder
        self.calls: list[tuple[str, Any]] = []
        self.fault: Fault = lambda _method, _arguments: None
        self.is_frozen = False
        self.slow_s = 0.0
        self.received = 0
        """Bytes of all chunks that have come to it, used or not."""
        self.restart()

    def restart(self) -> None:
        """As another process: what was in memory is gone."""
        roots = Roots({"files": {"path": str(self.files), "write": True}})
        self.incoming = Incoming(roots, str(self.folder), 0)

    def answer(self, method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return self._answer(method, arguments)

    def _answer(self, method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        self.calls.append((method, arguments))
        instead = self.fault(method, arguments)
        if method == "file_take":
            id_, chunk, (data,), relay = arguments
            self.received += len(data)
            answer = self.incoming.take(id_, chunk, data, relay) if instead is None else instead
            answer["received"] = len(data)
            return {**answer, "refs": [bytes(data)]} if relay and "ok" in answer else answer
        if instead is not None:
            return instead
        if method == "sending":
            return {}
        return dict(getattr(self.incoming, method.removeprefix("file_"))(*arguments))

    def answer_without_refs(self, method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        answer = self._answer(method, arguments)
        return {**answer, "refs": []} if "refs" in answer else answer

    def taken(self) -> list[int]:
        """The chunks that were sent to it, in the order in which they came."""
        return [arguments[1]["index"] for method, arguments in self.calls if method == "file_take"]


class Remotes:
    """Stands where the calls to other nodes are."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def __call__(self, actor: str, _namespace: str, _threads: Executor) -> "Remotes.One":
        return Remotes.One(self, actor)

    class One:
        """One of them."""

        def __init__(self, remotes: "Remotes", actor: str) -> None:
            self._remotes = remotes
            self._actor = actor

        async def find(self, _timeout_s: float) -> None:
            if self._actor not in self._remotes.nodes:
                raise Gone("no such actor")

        async def ask(self, method: str, timeout_s: float, *arguments: Any) -> dict[str, Any]:
            await asyncio.sleep(0.001)
            await self.find(0)
            node = self._remotes.nodes[self._actor]
            late_s = time.monotonic() + timeout_s
            while node.is_frozen:  # awake again, it answers what it was asked
                await asyncio.sleep(0.01)
                if time.monotonic() > late_s:
                    raise Gone("not in time")
            await asyncio.sleep(node.slow_s if method == "file_take" else 0)
            return node.answer(method, arguments)


class World:
    """A sender, and nodes to send to."""

    def __init__(self, folder: Path, remotes: Remotes) -> None:
        self._folder = folder
        self.nodes = remotes.nodes
        (folder / "own").mkdir()
        self.source = folder / "own" / "source"
        self.data = os.urandom(SIZE)
        self.source.write_bytes(self.data)

    def add(self, *names: str) -> None:
        for name in names:
            self.nodes[name] = Node(self._folder / name)

    def begin(self, *names: str, **more: Any) -> Outgoing:
        recipients = [{"name": name, "actor": name} for name in names]
        plan = {
            "id": "t1", "source": "own:source", "path": "files:in/a", "chunk_bytes": CHUNK,
            "window": 4, "if_exists": "refuse", "rate": None, "patience_s": 5,
            "recipients": recipients, **more,
        }  # fmt: skip
        roots = Roots({"own": {"path": str(self._folder / "own"), "write": False}})
        outgoing = Outgoing(plan, roots, "test")
        outgoing.start()
        return outgoing

    def end(self, outgoing: Outgoing) -> dict[str, Any]:
        outgoing.wait(10)
        found = outgoing.progress()
        assert found["state"] != "running", "no end"
        return {**found, "by": {one["recipient"]: one for one in found["recipients"]}}

    def send(self, *names: str, **more: Any) -> dict[str, Any]:
        return self.end(self.begin(*names, **more))

    def has(self, name: str) -> bool:
        """Whether it has the file, and nothing beside it."""
        folder = self.nodes[name].files / "in"
        return os.listdir(folder) == ["a"] and (folder / "a").read_bytes() == self.data


def made_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Make one in which nothing is waited for as long as on a cluster."""
    remotes = Remotes()
    monkeypatch.setattr(sending, "Remote", remotes)
    monkeypatch.setattr(sending, "put", bytes)
    monkeypatch.setattr(recipient, "_RETRY_S", 0.02)
    monkeypatch.setattr(remote, "_QUIET_S", 0.1)
    monkeypatch.setattr(sending, "_GRACE_S", 0.2)
    monkeypatch.setattr(sending, "_PUT_AGAIN_S", 0.01)
    return World(tmp_path, remotes)


def refusal(type: str) -> dict[str, Any]:  # noqa: A002
    return {"error": {"type": type, "message": "as the test wants it"}}


def once(index: int, instead: Callable[[], dict[str, Any] | None]) -> Fault:
    """A fault of the first call with this chunk."""
    left = [True]

    def fault(method: str, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
        if method == "file_take" and arguments[1]["index"] == index and left:
            left.clear()
            return instead()
        return None

    return fault


def gone() -> dict[str, Any]:
    raise Gone("the test wants it")
