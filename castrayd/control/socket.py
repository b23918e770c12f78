"""The control socket itself: claimed with a lock, so that it is never stolen from a live daemon.

The composition root claims it before anything else of the daemon runs.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import SocketAttribute

from castrayd.control.access import peer_of
from castrayd.control.door import Door
from castrayd.errors import SettingsError, SettingsProblem
from castrayd.lockfile import hold

__all__ = ("BACKLOG", "answers", "claim", "faults", "loopback")

MAX_PATH_BYTES: Final = 107
"""sun_path of unix(7), less the terminating zero."""
BACKLOG: Final = 256


@contextmanager
def claim(path: Path) -> Iterator[socket.socket]:
    """Hold the lock beside `path` and listen on it; both are given back at the end.

    Everybody may connect: who may do what is decided by the peer's credentials. Raises
    `AlreadyRunningError`, and `SettingsError` for a path that cannot be used.
    """
    if problems := tuple(faults(path, None)):
        raise SettingsError("control socket", problems)
    try:
        _make_folder(path.parent)
        lock = hold(path)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    try:
        listener = _bind(path)
        ours = path.lstat()
        try:
            yield listener
        finally:
            listener.close()
            _remove(path, ours)
    finally:
        os.close(lock)


def faults(path: Path, listen: str | None) -> Iterator[SettingsProblem]:
    """Yield what can be known to be wrong with the places to listen at before they are tried."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        yield SettingsProblem(str(path), f"longer than {MAX_PATH_BYTES} bytes")
    if listen is not None:
        try:
            _place(listen)
        except (ValueError, OverflowError) as error:
            yield SettingsProblem("metrics.listen", f"{listen!r}: {error}")


@contextmanager
def loopback(text: str | None) -> Iterator[socket.socket | None]:
    """Listen on `ip:port` of this host alone; None for None. Raises `SettingsError`."""
    if text is None:
        yield None
        return
    try:
        host, port = _place(text)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, reuse_port=False)
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        problem = SettingsProblem("metrics.listen", f"{text!r}: {why}")
        raise SettingsError(text, (problem,)) from error
    with listener:
        yield listener


async def answers(path: Path) -> None:
    """Return when we, who listen there, have taken a request; waits as long as it takes.

    One of too many connections is closed at once, which shows as well that somebody is at the
    door. Raises OSError, also where that is another process: a job of our uid may have put its
    own socket in the place of ours.
    """
    async with await anyio.connect_unix(path) as stream:
        pid = peer_of(stream.extra(SocketAttribute.raw_socket)).pid  # noqa: S610  no Django
        if pid != os.getpid():
            raise ConnectionError(f"the process {pid} answers at {path}")
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.send(b"GET /api/health/live HTTP/1.1\r\nHost: castrayd\r\n\r\n")
            await stream.receive()


def _place(text: str) -> tuple[str, int]:
    """Take `ip:port` apart. Raises ValueError, also for what others than this host could ask."""
    host, _, port = text.rpartition(":")
    ip = host.strip("[]")
    if not ip_address(ip).is_loopback:
        raise ValueError("no loopback address")
    number = int(port)
    if not 0 <= number < 2**16:
        raise ValueError("no port")
    return ip, number


def _make_folder(folder: Path) -> None:
    """Make the folder, open to all whatever the umask; one right below /tmp must be ours alone."""
    shared = folder.parent == Path("/tmp")  # noqa: S108
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700 if shared else 0o755)
    if shared:
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise PermissionError(1, f"{folder} is not ours alone")


def _bind(path: Path) -> socket.socket:
    """Bind anew; what is in the way is stale, or somebody else's live socket, or no socket.

    Whoever listens there is no castrayd, for it has not the lock that we have: it may go.
    """
    if _lives(path):
        raise _unusable(path, "another process listens there", passing=True)
    listener = Door()
    try:
        if path.is_socket():
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003  the socket module's form
    except OSError as error:
        listener.close()
        why = "is there, and no socket" if path.is_file() else error.strerror or str(error)
        raise _unusable(path, why) from error
    return listener


def _lives(path: Path) -> bool:
    """Whether somebody may listen there; only a clear no is one: a full backlog is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


def _remove(path: Path, ours: os.stat_result) -> None:
    """Take our socket away, unless another one is in its place by now."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.lstat(), ours):
            path.unlink()


def _unusable(path: Path, why: str, *, passing: bool = False) -> SettingsError:
    return SettingsError("control socket", (SettingsProblem(str(path), why),), passing=passing)
