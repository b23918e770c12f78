"""Processes that a test has started: found again by a mark in their environment, ended by pid."""

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

__all__ = (
    "MARK",
    "free_port",
    "kill",
    "marked",
    "new_mark",
    "reap_marked",
    "until",
)

MARK = "CASTRAY_TEST_MARK"
"""Inherited by everything that a marked process starts."""


def new_mark() -> str:
    """Return a mark that no other test has."""
    return secrets.token_hex(8)


def marked(mark: str) -> dict[int, str]:
    """Return the command lines of all living processes with the mark, by pid."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                line = Path(f"/proc/{name}/cmdline").read_bytes()
                found[int(name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return {pid: line for pid, line in found.items() if line}


def reap_marked(mark: str, timeout_s: float = 5.0) -> None:
    """Kill everything with the mark; returns when nothing is left."""
    deadline = time.monotonic() + timeout_s
    while left := marked(mark):
        for pid in left:
            kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise AssertionError(f"cannot end {left}")
        time.sleep(0.02)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait for a condition, looking every 20 ms; fails the test when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """Return a free port that nobody takes before it is used, nor while its server is away.

    Linux gives outgoing connections a port of its own range, and what tries again and again to
    reach a port of this host may get that very one; tests beside these ask for free ports too.
    """
    while True:  # between what Ray gives its workers and what Linux gives to connections
        port = 20_000 + secrets.randbelow(12_768)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
