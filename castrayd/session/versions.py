"""What a session's interpreter has, told without importing ray: Python's version and Ray's."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.session.launch import LaunchSpec
from castrayd.session.process import Child

__all__ = ("Versions", "interpreter_versions")


@dataclass(frozen=True, slots=True)
class Versions:
    """What the session's interpreter has."""

    python: str
    ray: str | None


_versions: dict[tuple[str, str | None], Versions] = {}

_ASK: Final = (
    "import platform, importlib.metadata as m\n"
    "try: ray = m.version('ray')\n"
    "except m.PackageNotFoundError: ray = ''\n"
    "print(platform.python_version(), ray)"
)
_ASK_S: Final = 5.0
_ANSWER_BYTES: Final = 4096
_ANSWER: Final = re.compile(rb"(\d+\.[\w.+]{1,30})(?: (\d[\w.+!-]{0,50}))?")


async def interpreter_versions(spec: LaunchSpec) -> Versions:
    """Tell Python's and Ray's versions of the interpreter; asked once, until its ray changes.

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
    """Ask it; whatever it has started itself is ended with it."""
    try:
        child = _spawned(spec)
    except (OSError, ValueError):
        return Versions("", None)
    said = b""
    try:
        with anyio.move_on_after(_ASK_S):
            await child.wait()
            said = os.read(child.outputs[0][1], _ANSWER_BYTES)
    finally:
        with anyio.CancelScope(shield=True):
            await child.end()
    found = _ANSWER.fullmatch(said.strip())
    if found is None:
        return Versions("", None)  # what else it said may be what nobody shall read
    python, ray = found.groups()
    return Versions(python.decode(), ray.decode() if ray else None)


def _spawned(spec: LaunchSpec) -> Child:
    return Child(
        subprocess.Popen(  # noqa: S603  the interpreter is the operator's setting
            [spec.python, "-I", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=dict(spec.environ),
            start_new_session=True,
        )
    )
