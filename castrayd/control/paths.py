"""Where the control socket is: one order of places, for the daemon and for castrayctl.

Both import it, so it must cost nothing: no aiohttp, and pathlib only where a Path is asked for.
"""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("default_socket_path", "find_socket", "from_systemd")

NAME = "control.sock"


def default_socket_path(instance: str | None, environ: Mapping[str, str]) -> "Path":
    """Return where a daemon makes its socket: the first place that it can write to."""
    from pathlib import Path  # noqa: PLC0415  castrayctl does without

    return Path(next(path for path in _places(instance, environ) if _usable(path, environ)))


def find_socket(instance: str | None, environ: Mapping[str, str]) -> str:
    """Return where castrayctl finds a daemon: the first socket that there is.

    Without any, the place where a daemon that we started would make it.
    """
    places = list(_places(instance, environ))
    found = next((path for path in places if _there(path)), None)
    return found or next(path for path in places if _usable(path, environ))


def _places(instance: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield `CASTRAYD_SOCKET` alone; else systemd's folder, root's, the user's, one in /tmp."""
    if given := environ.get("CASTRAYD_SOCKET"):
        yield given
        return
    folder = f"castrayd-{instance}" if instance else "castrayd"
    if runtime := from_systemd("RUNTIME_DIRECTORY", environ):
        yield f"{runtime}/{NAME}"
    yield f"/run/{folder}/{NAME}"
    if xdg := environ.get("XDG_RUNTIME_DIR"):
        yield f"{xdg}/{folder}/{NAME}"
    yield f"/tmp/{folder}-{os.geteuid()}/{NAME}"  # noqa: S108  checked when it is claimed


def from_systemd(variable: str, environ: Mapping[str, str]) -> str:
    """Return the folder that systemd has made, empty where none; several are separated by colons.

    Source: systemd.exec(5).
    """
    return environ.get(variable, "").partition(":")[0]


def _there(path: str) -> bool:
    """Whether there is one; in /tmp anybody may have put folder, socket or link."""
    try:
        # pathlib costs what the rest of castrayctl does
        if not path.startswith("/tmp/"):  # noqa: S108
            return bool(os.stat(path))  # noqa: PTH116
        owners = {os.lstat(one).st_uid for one in (path, path.rpartition("/")[0])}
    except OSError:
        return False
    return owners == {os.geteuid()}


def _usable(path: str, environ: Mapping[str, str]) -> bool:
    """Whether we may make a socket there: only /run is not ours by definition."""
    if not path.startswith("/run/castrayd") or path == environ.get("CASTRAYD_SOCKET"):
        return True
    folder = path.rpartition("/")[0]
    return os.geteuid() == 0 or os.access(folder, os.W_OK)
