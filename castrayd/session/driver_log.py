"""The log that Ray's C++ keeps of a driver: where it says why it ended the process.

Ray calls `_Exit` 60 s after its GCS is gone, and on errors of its object store: no exception, no
handler, often not a word on stderr. Read by `session` after such an end.
"""

import re
from pathlib import Path
from typing import Final

__all__ = ("driver_log",)

TAIL_BYTES: Final = 16 * 1024
LINES: Final = 3

_SERIOUS: Final = re.compile(r"^\[[^\]]* [WEFC] [^\]]*\] (?:\([^)]*\) )?(?:\S+:\d+: )?(.*)")
"""`[time, severity pid thread] (name) file:line: text`; warnings and worse."""


def driver_log(folder: str | None, pid: int) -> str:
    """Return the last serious lines of a driver's log, joined; empty where there are none."""
    if folder is None:
        return ""
    try:
        paths = sorted(Path(folder).glob(f"python-core-driver-*_{pid}.log"))
        text = _tail(paths[-1]) if paths else ""
    except OSError:
        return ""
    found = [match[1].strip() for line in text.splitlines() if (match := _SERIOUS.match(line))]
    return " | ".join(found[-LINES:])


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return file.read().decode(errors="replace")
