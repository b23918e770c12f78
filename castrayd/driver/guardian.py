"""Takes away what a local cluster leaves: run as a process of its own, standard library alone.

Ray's agents outlive their raylet by a minute, and each local start leaves a folder. This waits
for the end of its standard input, which is the daemon's word or the daemon's death, then kills
the session's process group and removes the session's folder. One path for both. A service manager
that kills the daemon kills this too: the next one removes what was left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

__all__ = ("main",)


def main(group: int, temp_dir: str, before: list[str]) -> None:
    """Wait for the end of standard input, then clean up after process group `group`.

    `before` is what was in Ray's folder when the session was not yet asked to start a cluster.
    Input is the session's folder, once it is known. Signals are for the daemon: systemd sends
    them to the whole service.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _sweep(temp_dir)
    told = b""
    while data := os.read(0, 4096):
        told += data
        _mark(told.decode())
    folders = [told.decode()] if told else _folders(temp_dir, group, before)
    for _ in range(50):
        left = _kill(group, folders)
        if not left:
            break
        time.sleep(0.05)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    _tidy(temp_dir, folders)


MARK = "castrayd"
"""Lies in the folder of a cluster that castrayd has started."""


def _mark(folder: str) -> None:
    with contextlib.suppress(OSError), open(os.path.join(folder, MARK), "wb"):
        pass


def _sweep(temp_dir: str) -> None:
    """Remove what an earlier guardian could not: one that was killed with its whole service."""
    for name in _listed(temp_dir):
        folder = os.path.join(temp_dir, name)
        with contextlib.suppress(OSError):
            ours = os.lstat(os.path.join(folder, MARK)).st_uid == os.geteuid()
            if ours and not os.path.islink(folder) and not _of_cluster([folder]):
                shutil.rmtree(folder, ignore_errors=True)


def _folders(temp_dir: str, group: int, before: list[str]) -> list[str]:
    """Find the session's folders: Ray puts the driver's pid, which leads the group, last.

    Only those that are new: another container that shares /tmp may have the same pid.
    """
    return [
        os.path.join(temp_dir, name)
        for name in _listed(temp_dir)
        if name.startswith("session_2") and name.endswith(f"_{group}") and name not in before
    ]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _kill(group: int, folders: list[str]) -> bool:
    """Kill the group, and what of the cluster has left it; returns whether anything lives."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    left = _lives(group)
    for pid in _of_cluster(folders):
        try:
            os.kill(pid, signal.SIGKILL)
            left = True
        except OSError:
            continue
    return left


def _lives(group: int) -> bool:
    """Whether a process of the group is more than a zombie, which only its parent can end."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, _parent, leader = file.read().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(leader) == group and state not in {b"Z", b"X"}:
            return True
    return False


def _of_cluster(folders: list[str]) -> list[int]:
    """Find our processes that carry a folder of the session on their command line."""
    marks = [os.path.basename(folder).encode() for folder in folders]
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read()
            ours = os.stat(f"/proc/{name}").st_uid == os.geteuid()
        except OSError:
            continue
        if ours and any(mark in line for mark in marks):
            found.append(int(name))
    return found


def _tidy(temp_dir: str, folders: list[str]) -> None:
    """Remove the links to what is gone, and the folder of them when nothing else is in it."""
    latest = os.path.join(temp_dir, "session_latest")
    try:
        if os.path.realpath(latest) in {os.path.realpath(folder) for folder in folders}:
            os.unlink(latest)
        os.rmdir(temp_dir)
    except OSError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
