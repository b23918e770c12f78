"""The course of one transfer at its sender: begin at all, send what is missing, finish.

To several recipients a chunk goes to one of them in turn, which puts it again for the others, so
that the sender's link carries the file once however many receive it. Whoever is lost on the way
is begun again beside the others, and gets what it has missed in a later pass.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from castrayd.driver.caster.pace import Rate, Window
from castrayd.driver.caster.recipient import TRIES, Recipient
from castrayd.driver.caster.remote import Remote, put
from castrayd.driver.caster.roots import FileRefusal, refusal_of
from castrayd.driver.caster.source import Source

__all__ = ("Sending",)

_THREADS = 4
_GRACE_S = 2.0
"""Recipients that begin later than this after the first have their first chunks sent again."""
_PUTS = 10
_PUT_AGAIN_S = 1.0


class Sending:
    """One transfer. Everything but `progress` of its recipients happens in one loop."""

    def __init__(self, plan: dict[str, Any], source: Source, namespace: str) -> None:
        """Own the source. To be made in the loop."""
        self._plan = plan
        self.source = source
        self._lookups = ThreadPoolExecutor(_THREADS, "send-find")  # these may hang
        self._threads = ThreadPoolExecutor(_THREADS, "send")
        self._in_order = ThreadPoolExecutor(1, "send-hash")
        self._aside = ThreadPoolExecutor(1, "send-compare")  # nobody's chunks wait for it
        self._rate = Rate(plan.get("rate"))
        self._begins: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._refusal: FileRefusal | None = None
        self._hashing: asyncio.Future[str] | None = None
        self.recipients = [self._recipient(one, namespace) for one in plan["recipients"]]

    def _recipient(self, one: dict[str, Any], namespace: str) -> Recipient:
        remote = Remote(one["actor"], namespace, self._lookups)
        return Recipient(self._plan, one["name"], self.source, remote, self)

    def tell(self) -> None:
        """Look at the recipients again: the state of one has changed."""
        self._changed.set()

    def spawn(self, work: Coroutine[Any, Any, None], *, last: bool = False) -> None:
        """Run a recipient's coroutine beside the rest; one that is its last is waited for."""
        task = asyncio.get_running_loop().create_task(work)
        tasks = self._ends if last else self._begins
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def run(self) -> None:
        """Send to all; returns when each has ended. Raises FileRefusal for a fault of the source.

        Cancelled, it has the recipients remove what they have.
        """
        for one in self.recipients:
            self.spawn(one.begin())
        try:
            await self._settle()
            await self._go_on()
        except Exception as error:
            raise self._failed(self._refusal_of(error)) from error
        finally:
            await self._end()

    def _refusal_of(self, error: Exception) -> FileRefusal:
        if isinstance(error, FileRefusal):
            return error
        if isinstance(error, OSError):
            return refusal_of(error, self._plan["source"])
        traceback.print_exception(type(error), error, error.__traceback__)  # a bug of ours
        return FileRefusal("internal", f"{type(error).__name__}: {error}")

    def _failed(self, refusal: FileRefusal) -> FileRefusal:
        for one in self.recipients:
            one.fail(refusal.document()["error"])
        return refusal

    async def _end(self) -> None:
        """Cancel who has not ended, and wait until all have been told."""
        for task in list(self._begins):
            task.cancel()
        for one in self.recipients:
            one.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)

    def close(self) -> None:
        """Close the source, once no thread reads it any more."""
        self.source.stop()
        self._lookups.shutdown(wait=False)
        self._threads.shutdown()
        self._in_order.shutdown()
        self._aside.shutdown()
        self.source.close()

    async def _settle(self) -> None:
        """Wait until all have begun, ended or failed to answer; not long for the last of them."""
        while not all(one.state != "beginning" or one.in_trouble for one in self.recipients):
            one_is_ready = any(one.is_ready for one in self.recipients)
            if not await self._change(_GRACE_S if one_is_ready else None):
                return

    async def _change(self, timeout_s: float | None = None) -> bool:
        """Wait for a recipient's change; False when none has come."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except asyncio.TimeoutError:  # noqa: UP041  another class before Python 3.11
            return False
        return True

    async def _go_on(self) -> None:
        while pending := [one for one in self.recipients if not one.has_ended]:
            ready = [one for one in pending if one.is_ready]
            missing = [
                i for i in range(self.source.count) if any(one.tally.lacks(i) for one in ready)
            ]
            if missing:
                await self._pass(missing)
            elif ready:
                await self._finish(ready)
            else:
                await self._change()

    async def _finish(self, ready: list[Recipient]) -> None:
        sha256 = await self.sha256()
        await self._in_thread(self.source.check)
        await asyncio.gather(*(one.finish(sha256) for one in ready))

    async def sha256(self) -> str:
        """Return the source's sha256, reading it for that alone where it must be known before."""
        if self.source.sha256 is not None:
            return self.source.sha256
        if self._hashing is None:
            loop = asyncio.get_running_loop()
            self._hashing = loop.run_in_executor(self._aside, self.source.hash_all)
        return await asyncio.shield(self._hashing)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)

    async def _pass(self, indices: list[int]) -> None:
        """Send these chunks in order to whoever then lacks them, a window of them at a time."""
        window = Window(self._plan["window"])
        chunks: set[asyncio.Task[None]] = set()
        try:
            for index in indices:
                if self._refusal or not await self._somebody():
                    break
                if self._is_wanted(index):
                    await window.enter()
                    task = await self._set_out(index)
                    chunks.add(task)
                    task.add_done_callback(chunks.discard)
                    task.add_done_callback(partial(_left, window, time.monotonic()))
            await asyncio.gather(*chunks)
        finally:
            for task in chunks:
                task.cancel()
        if self._refusal:
            raise self._refusal

    async def _set_out(self, index: int) -> "asyncio.Task[None]":
        """Read a chunk, no faster than is allowed, and begin to do with it what is to be done."""
        loop = asyncio.get_running_loop()
        if any(not one.tally.claims(index) for one in self.recipients if one.is_ready):
            await self._rate.wait(self.source.length(index))
        view = await self._in_thread(self.source.read, index)
        hashed = loop.run_in_executor(self._in_order, self.source.follow, index, view)
        return loop.create_task(self._chunk(index, view, hashed))

    async def _somebody(self) -> bool:
        """Wait until a recipient is ready; False when all have ended."""
        while not any(one.is_ready for one in self.recipients):
            if all(one.has_ended for one in self.recipients):
                return False
            await self._change()
        return True

    def _is_wanted(self, index: int) -> bool:
        """Whether a chunk is to be read: it always is the first time, for the whole's sha256."""
        digest = self.source.digests[index]
        return digest is None or any(one.wants(index, digest) for one in self.recipients)

    async def _chunk(self, index: int, view: memoryview, hashed: "asyncio.Future[None]") -> None:
        try:
            digest, ref = await self._prepared(index, view)
            await hashed
            self.source.give_back(view)
            targets = [one for one in self.recipients if one.wants(index, digest)]
            if targets and ref is not None:
                await _hand_out(index, digest, ref, targets)
        except Exception as error:  # noqa: BLE001  the pass ends with it, for all
            self._refusal = self._refusal_of(error)

    async def _prepared(self, index: int, view: memoryview) -> tuple[bytes, Any]:
        """Hash a chunk and put it, at once when it is surely wanted; no ref when it is not."""
        ready = [one for one in self.recipients if one.is_ready]
        putting = None
        if any(not one.tally.claims(index) for one in ready):
            putting = asyncio.get_running_loop().create_task(self._put(view))
        digest: bytes = await self._in_thread(self.source.digest, index, view)
        if putting is not None:
            return digest, await putting
        if any(one.wants(index, digest) for one in self.recipients):
            return digest, await self._put(view)
        return digest, None

    async def _put(self, view: memoryview) -> Any:
        """Put a chunk into this node's object store, waiting for room."""
        for _ in range(_PUTS):
            ref = await self._in_thread(put, view)
            if ref is not None:
                return ref
            await asyncio.sleep(_PUT_AGAIN_S)  # noqa: TID251  the cluster has no anyio
        raise FileRefusal("internal", "the object store of the sending node is full")


def _left(window: Window, began_s: float, _task: "asyncio.Task[None]") -> None:
    window.leave(time.monotonic() - began_s)


async def _hand_out(index: int, digest: bytes, ref: Any, targets: list[Recipient]) -> None:
    """Send a chunk to one in turn, and to the others what that one has put again."""
    own = [ref] * TRIES
    relay = targets.pop(index % len(targets))
    again = await relay.deliver(index, digest, own, relay=bool(targets))
    # a relay that is lost, with its chunk, is known by their tries: the next is from our own
    others = again + own[len(again) :]
    await asyncio.gather(*(one.deliver(index, digest, others) for one in targets))
