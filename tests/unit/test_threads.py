"""Blocking calls beside the loop: bounded, abandoned, and nobody waits for them at the end."""

import subprocess
import sys
import threading
import time

import anyio
import pytest

from castrayd.threads import Threads

_HANGING = """
import anyio, time
from castrayd.threads import READS
async def main():
    with anyio.move_on_after(0.05):
        await READS.run(lambda: time.sleep(60))
anyio.run(main)
print("ended")
"""


async def test_what_the_call_returns_or_raises_comes_back() -> None:
    """From another thread, which is none that the interpreter waits for."""
    threads = Threads(2)
    assert await threads.run(lambda: threading.current_thread().daemon)
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_no_more_than_so_many_at_once_and_each_gets_its_turn() -> None:
    """A further call waits, and is begun when one ends."""
    threads, under_way, most = Threads(2), [0], [0]
    turn = threading.Lock()

    def call() -> None:
        with turn:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.03)
        with turn:
            under_way[0] -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(threads.run, call)
    assert most == [2]


def test_call_that_hangs_does_not_hold_up_the_end() -> None:
    """A file server that is gone keeps no daemon from ending."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _HANGING], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "ended\n"
    assert time.monotonic() - began_s < 10
