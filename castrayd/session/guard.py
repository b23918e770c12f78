"""The daemon's side of a local cluster's guardian: a process that outlives us to tidy up."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio

import castrayd

__all__ = ("Guard", "ray_temp_dir")

TIDY_S = 5.0
_LOOK_S = 0.01


def ray_temp_dir(environ: Mapping[str, str]) -> str:
    """Where Ray puts a local cluster's folder, given a process's environment."""
    parent = environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp"  # noqa: S108  Ray's own
    return f"{parent}/ray"


def _listed(folder: str) -> list[str]:
    try:
        return [one.name for one in Path(folder).iterdir()]
    except OSError:
        return []


class Guard:
    """One guardian. It cleans up at `release`, or when this process dies."""

    def __init__(self, group: int, temp_dir: str) -> None:
        # listed here: by the time that the guardian runs, the new session's folder may be there
        before = [name for name in _listed(temp_dir) if name.endswith(f"_{group}")]
        script = Path(castrayd.__file__).parent / "driver" / "guardian.py"
        self._popen = subprocess.Popen(  # noqa: S603  our own file, in our own interpreter
            [sys.executable, "-I", str(script), str(group), temp_dir, *before],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def tell(self, folder: str) -> None:
        """Say which folder is the session's."""
        if self._popen.stdin is not None:
            self._popen.stdin.write(folder.encode())
            self._popen.stdin.flush()

    async def release(self) -> None:
        """Have it clean up, and wait for it, bounded; to be called shielded."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        with anyio.move_on_after(TIDY_S):
            while self._popen.poll() is None:  # noqa: ASYNC110  needs no descriptor, of which none may be left
                await anyio.sleep(_LOOK_S)
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
