"""Where the control socket is: the same answer for the daemon and for castrayctl."""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ("default_socket_path",)


def default_socket_path(instance: str | None, environ: Mapping[str, str]) -> Path:
    """Return `CASTRAYD_SOCKET`, else a socket in the first folder that suits us.

    systemd's runtime directory, root's /run/castrayd, the user's XDG runtime directory, else a
    folder below /tmp that only we may use.
    """
    if given := environ.get("CASTRAYD_SOCKET"):
        return Path(given)
    folder = f"castrayd-{instance}" if instance else "castrayd"
    if runtime := environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return Path(runtime) / "control.sock"
    system = Path("/run") / folder / "control.sock"
    if os.geteuid() == 0 or system.exists():
        return system
    if xdg := environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / folder / "control.sock"
    return Path(f"/tmp/{folder}-{os.geteuid()}/control.sock")  # noqa: S108  checked when claimed
