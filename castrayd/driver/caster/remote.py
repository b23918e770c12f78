"""Calls to another casting node, awaited with a deadline in any thread's loop."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import Executor
from typing import Any

__all__ = ("Gone", "Remote", "awaited", "put", "watched")

_QUIET_S = 2.0
_PULSE_S = 5.0
"""An actor has threads for this that are never busy; so long a machine may be."""


class Gone(Exception):  # noqa: N818  a turn of events
    """The other node does not answer now; it may again, for Ray starts it anew."""


class Remote:
    """One actor by name. For use in one loop."""

    def __init__(self, actor: str, namespace: str, threads: Executor) -> None:
        self._actor = actor
        self._namespace = namespace
        self._threads = threads
        self._handle: Any = None

    async def find(self, timeout_s: float) -> None:
        """Look the actor up anew; raises Gone."""
        import ray  # noqa: PLC0415

        def look() -> Any:
            return ray.get_actor(self._actor, namespace=self._namespace)

        try:
            found = asyncio.get_running_loop().run_in_executor(self._threads, look)
            self._handle = await asyncio.wait_for(found, timeout_s)
        except Exception as error:  # noqa: BLE001  whatever Ray raises, there is no answer
            raise Gone(_text(error)) from None

    async def ask(self, method: str, timeout_s: float, *arguments: Any) -> dict[str, Any]:
        """Call a method and return its answer, errors too; raises Gone for none in time."""
        import ray  # noqa: PLC0415

        if self._handle is None:
            raise Gone("not found yet")
        try:
            answer = getattr(self._handle, method).remote(*arguments)
            found = await asyncio.wait_for(awaited(answer), timeout_s)
        except ray.exceptions.RayTaskError as error:
            return {"error": {"type": "internal", "message": _text(error)}}
        except Exception as error:  # noqa: BLE001  whatever Ray raises, there is no answer
            raise Gone(_text(error)) from None
        return dict(found or {})


async def watched(remote: Remote, method: str, timeout_s: float, *arguments: Any) -> dict[str, Any]:
    """Ask as `Remote.ask` for what may take long; one that does nothing at all is Gone much sooner.

    A process that is frozen, or whose host is, answers no other question either.
    """
    loop = asyncio.get_running_loop()
    answer = loop.create_task(remote.ask(method, timeout_s, *arguments))
    try:
        while not (await asyncio.wait({answer}, timeout=_QUIET_S))[0]:
            try:
                await remote.ask("sending", _PULSE_S, "")
            except Gone:
                if not answer.done():
                    raise
        return await answer
    finally:
        answer.cancel()


def put(buffer: Any) -> Any:
    """Put bytes into this node's object store, without a copy on the way; None where it is full."""
    import ray  # noqa: PLC0415

    try:
        return ray.put(pickle.PickleBuffer(buffer))
    except ray.exceptions.RayError:
        return None


def awaited(answer: Any) -> "asyncio.Future[Any]":
    """Return a future of this loop. Ray's own fails noisily once it is cancelled, or its loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def tell(done: Any) -> None:
        try:
            loop.call_soon_threadsafe(_settle, future, done)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    answer.future().add_done_callback(tell)
    return future


def _settle(future: "asyncio.Future[Any]", done: Any) -> None:
    if future.done():
        return
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(error)


def _text(error: BaseException) -> str:
    """Put it on one line; of a remote traceback what was raised is last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    short = " ".join(lines if len(lines) < 3 else (lines[0], lines[-1]))  # noqa: PLR2004
    return f"{type(error).__name__}: {short}"[:500]
