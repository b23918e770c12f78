"""Blocking calls beside the loop, in threads that nobody waits for.

anyio's and asyncio's workers are joined when the interpreter ends: one that hangs in a file
server or a resolver would hold up the end of the daemon for as long.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

__all__ = ("READS", "Threads")

_T = TypeVar("_T")

_TURN_S: Final = 0.005


class Threads:
    """So many calls at once; a further one waits for its turn. For use from one event loop."""

    def __init__(self, at_once: int) -> None:
        self._slots = threading.BoundedSemaphore(at_once)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Return what the call returns, or raise what it raises; cancelled, it is left to itself.

        Raises RuntimeError where the system has no thread left.
        """
        while not self._slots.acquire(blocking=False):  # noqa: ASYNC110  other threads release
            await anyio.sleep(_TURN_S)
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        thread = threading.Thread(
            target=self._run, args=(call, answer), name="castrayd-blocking", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._slots.release()
            raise
        return await answer

    def _run(self, call: Callable[[], _T], answer: "asyncio.Future[_T]") -> None:
        settle: Callable[[], None]
        try:
            result = call()
        except Exception as error:  # noqa: BLE001  raised anew where it is awaited
            settle = _settling(answer, error, answer.set_exception)
        else:
            settle = _settling(answer, result, answer.set_result)
        finally:
            self._slots.release()
        try:
            answer.get_loop().call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop has ended meanwhile


def _settling(
    answer: "asyncio.Future[_T]", value: object, settle: Callable[..., None]
) -> Callable[[], None]:
    def settled() -> None:
        if not answer.done():  # else nobody waits any more
            settle(value)

    return settled


READS: Final = Threads(16)
"""For small files and tables, which answer at once unless what they lie on is gone."""
