"""How a session is started: its interpreter, its scrubbed environment, and what makes two alike."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import castrayd
from castrayd.core.states import Mode

__all__ = ("BOOTSTRAP", "LaunchSpec", "launch_spec")

_SCRUBBED: Final = ("RAY_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "CREDENTIALS_DIRECTORY")
"""Ray would obey the first; the rest are between systemd and the daemon alone."""

_OUR_PYTHON: Final = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
"""Meant for the daemon's interpreter: to another one our packages are the wrong ones."""

_TLS: Final = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")

BOOTSTRAP: Final = """\
import sys, types
sys.path[:] = [entry for entry in sys.path if entry]
package = types.ModuleType("castrayd")
package.__path__ = [sys.argv[1]]
sys.modules["castrayd"] = package
from castrayd.driver.main import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""
"""Makes `castrayd.driver` importable in an interpreter without castrayd, and nothing else of ours:
our folder on its path would shadow the cluster's own packages."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What a session is started with; sessions of equal specs can stand in for each other."""

    python: str
    environ: Mapping[str, str] = field(repr=False)
    """Holds the token, and is never shown."""
    ray: str | None
    """Where the interpreter's ray lies and how old it is; changes with every upgrade."""

    def command(self, descriptor: int) -> list[str]:
        """Return the command line of the child."""
        package = str(Path(castrayd.__file__).parent)
        return [self.python, "-c", BOOTSTRAP, package, str(descriptor), str(os.getpid())]


def launch_spec(
    python: str | None, token: str | None, environ: Mapping[str, str], *, mode: Mode
) -> LaunchSpec:
    """Decide how a session is started. `python` None is our own interpreter."""
    interpreter = python or sys.executable
    foreign = () if interpreter == sys.executable else _OUR_PYTHON
    kept = {k: v for k, v in environ.items() if not k.startswith((*_SCRUBBED, *foreign))}
    kept |= {name: environ[name] for name in _TLS if name in environ}
    kept |= {"RAY_ENABLE_AUTO_CONNECT": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    # a lost client is never resumed; with Ray's own grace every failure to start takes 30 s more
    kept["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = "0"
    if token is not None:
        kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    elif mode is not Mode.LOCAL:  # a local cluster makes a token of its own in the home
        kept["RAY_AUTH_MODE"] = "disabled"
    return LaunchSpec(interpreter, kept, _distribution(interpreter))


def _distribution(interpreter: str) -> str | None:
    """Find ray's dist-info beside the interpreter, without running it."""
    found = shutil.which(interpreter)
    if found is None:
        return None
    prefix = Path(found).parent.parent
    try:
        infos = sorted(prefix.glob("lib/python3*/site-packages/ray-*.dist-info"))
    except OSError:  # it is being removed this moment, or lies on a server that is gone
        return None
    return ";".join(filter(None, map(_stamp, infos))) or None


def _stamp(info: Path) -> str:
    try:
        return f"{info.name}@{info.stat().st_mtime_ns}"
    except OSError:  # it is being replaced this moment
        return ""
