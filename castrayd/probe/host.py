"""What this host itself must have for an attachment, looked at without changing anything.

Called by `supervisor.doctor`. Each check says what it saw, and what to do where that is not well.
A failure stands in the way of an attachment; a warning may come to; unknown is never taken for
good.
"""

import os
import resource
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from castrayd.probe.local_node import Raylet, run_as, try_socket

__all__ = (
    "HostCheck",
    "Verdict",
    "check_clock",
    "check_control",
    "check_files",
    "check_raylets",
    "check_shm",
    "check_token",
)

SHM: Final = "/dev/shm"  # noqa: S108  where Ray keeps its objects
LEAST_SHM: Final = 256 * 2**20
"""A container without `--shm-size` has 64 MiB."""
LEAST_FREE: Final = 0.05
LEAST_FILES: Final = 1024
_MIB: Final = 2**20


class Verdict(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One check of this host."""

    name: str
    verdict: Verdict
    seen: str
    remedy: str | None = None
    """What to do; None where nothing needs to be done."""


def check_raylets(seen: Sequence[Raylet], *, needed: bool) -> HostCheck:
    """Judge the raylets of this host; `needed` is one unless only Ray Client is wanted."""
    bad = Verdict.FAILED if needed else Verdict.OK
    if not seen:
        remedy = "Run `ray start --address=HOST:PORT` here; in a container share the PID namespace."
        return HostCheck("raylet", bad, "none runs on this host", remedy if needed else None)
    tried = [(raylet, try_socket(raylet)) for raylet in seen]
    told = "; ".join(f"pid {r.pid} of uid {r.uid}: {_worded(verdict)}" for r, verdict in tried)
    if not needed or any(verdict is None for _, verdict in tried):
        return HostCheck("raylet", Verdict.OK, told)
    forbidding = [raylet for raylet, verdict in tried if verdict is PermissionError]
    remedy = "Wait for it to finish starting; raylet.out tells what hinders it."
    if forbidding:
        remedy = run_as(forbidding[0].uid)
    return HostCheck("raylet", bad, told, remedy)


def _worded(verdict: type[OSError] | None) -> str:
    if verdict is None:
        return "its socket is writable"
    return "its socket is not ours" if verdict is PermissionError else "its socket does not accept"


def check_token(source: str, path: str | None, *, trouble: bool) -> HostCheck:
    """Judge where the token lies; its value does not come here, None of a path is no file.

    `trouble`: the file that is named for it gave none.
    """
    if trouble:
        remedy = "Correct ray.token_file, or let castrayd's user read the file."
        return HostCheck("token", Verdict.WARNING, source, remedy)
    if path is None:
        return HostCheck("token", Verdict.OK, source)
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116  a path of any form
    except (OSError, ValueError) as error:
        return HostCheck("token", Verdict.UNKNOWN, f"{source}: {error}", "Look again.")
    told = f"{source}: {path}, mode {mode:04o}"
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        remedy = f"Others than its owner may read or change it: `chmod 600 {path}`."
        return HostCheck("token", Verdict.WARNING, told, remedy)
    return HostCheck("token", Verdict.OK, told)


def check_clock() -> HostCheck:
    """Judge the wall clock by the kernel's word; nothing depends on it but what is shown."""
    kept = _kernel_in_step()
    if kept or os.path.exists("/run/systemd/timesync/synchronized"):  # noqa: PTH110
        return HostCheck("clock", Verdict.OK, "synchronised")
    remedy = "Run chrony or systemd-timesyncd, so that logs of several hosts fit together."
    if kept is None:
        return HostCheck("clock", Verdict.UNKNOWN, "the kernel does not tell", remedy)
    return HostCheck("clock", Verdict.WARNING, "not synchronised", remedy)


def _kernel_in_step() -> bool | None:
    """Read the kernel's own word, adjtimex(2); None where we may not ask.

    A `struct timex` of zeros asks only: its first member is the mask of what is to be changed.
    """
    import ctypes  # noqa: PLC0415  the daemon's start would pay for it

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


_TIMEX_BYTES: Final = 512
"""More than the structure has on any machine."""
_TIME_ERROR: Final = 5


def check_shm(path: str = SHM) -> HostCheck:
    """Judge the memory in which the raylet of this host keeps its objects."""
    try:
        seen = os.statvfs(path)
    except OSError as error:
        told = f"{path}: {error.strerror}"
        return HostCheck("shm", Verdict.UNKNOWN, told, f"Mount a tmpfs at {path}.")
    return judged_shm(seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize, path)


def judged_shm(size: int, free: int, path: str = SHM) -> HostCheck:
    """Judge the sizes, in bytes."""
    told = f"{path}: {size // _MIB} MiB, {free // _MIB} MiB free"
    if size < LEAST_SHM:
        remedy = f"Make {path} larger; in a container `--shm-size=2g`."
        return HostCheck("shm", Verdict.WARNING, told, remedy)
    if free < size * LEAST_FREE:
        remedy = f"Look who fills {path}: `ls -l {path}`; a dead raylet may have left its store."
        return HostCheck("shm", Verdict.WARNING, told, remedy)
    return HostCheck("shm", Verdict.OK, told)


def check_files(limit: int | None = None) -> HostCheck:
    """Judge the soft limit of open files of this process; sessions inherit it."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    told = "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}"
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        remedy = "Raise it: LimitNOFILE=65536 in the unit, or `ulimit -n 65536`."
        return HostCheck("open files", Verdict.WARNING, told, remedy)
    return HostCheck("open files", Verdict.OK, told)


def check_control(path: str, rights: Sequence[str] | None) -> HostCheck:
    """Judge the control socket; `rights` are those of who asks, None where no daemon was asked."""
    if rights is not None:
        return HostCheck("control", Verdict.OK, f"{path}: you may {', '.join(rights)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # noqa: FBT003  the socket module's form
        try:
            sock.connect(path)
        except BlockingIOError:
            pass  # its queue is full: somebody is there
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            remedy = "Start the daemon: castrayd run; or name its socket by --socket or --instance."
            return HostCheck("control", Verdict.WARNING, f"no daemon at {path}: {why}", remedy)
    remedy = "Look at the daemon's log: somebody listens there and gave no answer."
    return HostCheck("control", Verdict.WARNING, f"{path}: there, and gave no answer", remedy)
