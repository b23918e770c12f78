"""How a session is started: its interpreter, its scrubbed environment, and what makes two alike."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

import castrayd
from castrayd.core.states import Mode

__all__ = ("BOOTSTRAP", "LaunchSpec", "Versions", "interpreter_versions", "launch_spec")

_SCRUBBED: Final = ("RAY_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "CREDENTIALS_DIRECTORY")
"""Ray would obey the first; the rest are between systemd and the daemon alone."""

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


@dataclass(frozen=True, slots=True)
class Versions:
    """What the session's interpreter has."""

    python: str
    ray: str | None


def launch_spec(
    python: str | None, token: str | None, environ: Mapping[str, str], *, mode: Mode
) -> LaunchSpec:
    """Decide how a session is started. `python` None is our own interpreter."""
    interpreter = python or sys.executable
    kept = {k: v for k, v in environ.items() if not k.startswith(_SCRUBBED)}
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
    infos = sorted(prefix.glob("lib/python3*/site-packages/ray-*.dist-info"))
    return ";".join(filter(None, map(_stamp, infos))) or None


def _stamp(info: Path) -> str:
    try:
        return f"{info.name}@{info.stat().st_mtime_ns}"
    except OSError:  # it is being replaced this moment
        return ""


_versions: dict[tuple[str, str | None], Versions] = {}

_ASK: Final = (
    "import platform, importlib.metadata as m\n"
    "try: ray = m.version('ray')\n"
    "except m.PackageNotFoundError: ray = ''\n"
    "print(platform.python_version(), ray)"
)
_ASK_S: Final = 5.0


async def interpreter_versions(spec: LaunchSpec) -> Versions:
    """Tell Python's and Ray's versions of the interpreter, without importing ray.

    An interpreter that cannot be asked has no known Ray: spawning it will say why.
    """
    key = (spec.python, spec.ray)
    if key not in _versions:
        versions = _ours() if spec.python == sys.executable else await _ask(spec)
        _versions[key] = versions
    return _versions[key]


def _ours() -> Versions:
    try:
        ray = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        ray = None
    return Versions(platform.python_version(), ray)


async def _ask(spec: LaunchSpec) -> Versions:
    command = [spec.python, "-I", "-c", _ASK]
    try:
        with anyio.fail_after(_ASK_S):
            done = await anyio.run_process(
                command, check=False, stderr=subprocess.DEVNULL, cwd="/", env=spec.environ
            )
    except (OSError, ValueError, TimeoutError):
        return Versions("", None)
    version, _, ray = done.stdout.decode(errors="replace").strip().partition(" ")
    return Versions(version, ray or None)
