"""The child's entry: ties its life to the daemon's, greets, and does what it is told.

The main thread reads the wire and answers pings itself; everything that touches Ray runs in a
lane, off the main thread, where `ray.init` changes no signal handler.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import time
from collections.abc import Callable
from typing import Any

from castrayd.driver.attach import Attachment, Refusal
from castrayd.driver.casting import PREFIX, Casting
from castrayd.driver.lanes import Lane
from castrayd.driver.wire import PROTOCOL, Wire

__all__ = ("main",)

_PR_SET_PDEATHSIG = 1
_LATE_S = 3.0
"""What a client's read of the node map may take; by now its GCS is gone, or hangs."""


def main(descriptor: int, parent: int) -> None:
    """Serve the wire until the daemon closes it or dies; never returns."""
    _die_with(parent)
    wire = Wire(descriptor)
    wire.write({"hello": PROTOCOL, "pid": os.getpid(), "python": platform.python_version()})
    Child(wire).serve()
    os._exit(0)  # Ray's threads and exit handlers may hang; the daemon has let go of us


def _die_with(parent: int) -> None:
    """Have the kernel kill us when the daemon dies, also while C++ holds the interpreter.

    Source: prctl(2). The parent may have died before the call, so look once more after it.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


class Child:
    """Answers requests: `{"id", "op", ...}` gives `{"id", "ok"}` or `{"id", "error"}`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._attachment = Attachment(push=self._push)
        self._lane = Lane("attach")
        self._work = Lane("work")
        """What may take its time, beside the heartbeat."""
        self._casting: Casting | None = None
        self._refresh_began_s: float | None = None
        self._operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "import": lambda _: self._attachment.load(),
            "attach": self._attachment.attach,
            "nodes": lambda _: self._attachment.nodes(),
            "heartbeat": lambda _: self._heartbeat(),
            "shutdown": lambda _: self._attachment.shutdown(),
        }

    def serve(self) -> None:
        """Read and dispatch until the end of the wire."""
        while True:
            request = self._wire.read()
            if request is None:
                return
            if request["op"] == "ping":
                self._wire.write({"id": request["id"], "ok": None})
            elif request["op"].startswith(PREFIX):
                self._cast(request)
            else:
                self._lane.submit(lambda request=request: self._perform(request))  # type: ignore[misc]

    def _cast(self, request: dict[str, Any]) -> None:
        """Hand a request to casting, which waits for nobody and is made when it is needed."""
        if self._casting is None:
            self._casting = Casting(lambda id_, ok: self._wire.write({"id": id_, "ok": ok}))
        self._casting.submit(request)

    def _perform(self, request: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["ok"] = self._operations[request["op"]](request)
        except Refusal as refusal:
            answer["error"] = refusal.document()
        except BaseException as error:  # noqa: BLE001  every request is answered, whatever Ray raises
            message = f"{type(error).__name__}: {error}"
            answer["error"] = {"type": "internal", "message": message, "code": None}
        self._wire.write(answer)

    def _heartbeat(self) -> None:
        """Make one short round trip; the map, which may be large, is read beside it."""
        self._attachment.heartbeat()
        began_s = self._refresh_began_s
        if began_s is None:
            self._refresh_began_s = time.monotonic()
            self._work.submit(self._refresh)
        elif self._attachment.is_client and time.monotonic() - began_s > _LATE_S:
            # a client's own server answers for itself: that the cluster does is seen here alone
            raise Refusal("session_unresponsive", f"the cluster is silent for over {_LATE_S} s")

    def _refresh(self) -> None:
        try:
            self._attachment.refresh()
        finally:
            self._refresh_began_s = None

    def _push(self, kind: str, body: dict[str, Any]) -> None:
        self._wire.write({"push": kind, **body})
