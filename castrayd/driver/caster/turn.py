"""One process at a time in a casting node's folder.

Where a cluster was replaced, its raylets and their actors may live on for a while, beside those
that are made on the new one. What the same owner has made later takes over, and the earlier
process ends itself. One that Ray has only started again waits, and so does another owner's.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from castrayd.driver.caster.roots import TEMP_PREFIX

__all__ = ("Turn",)

_LOOK_S = 0.3
_KEPT = 20


class Turn:
    """The right to a folder. `made` is another one each time the owner makes the node."""

    def __init__(
        self, folder: str, owner: str, made: str, end: Callable[[], None] | None = None
    ) -> None:
        """Have `end` called once a later one wants the folder; without, the process ends."""
        self._path = os.path.join(folder, f"{TEMP_PREFIX}turn")
        self._owner = owner
        self._made = made
        self._end = end or _exit
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(f"{self._path}.lock", flags, 0o600)

    def take(self) -> None:
        """Wait until no other process has it; raises OSError for a bad disk."""
        is_later = self._is_later()
        while not self._locked():
            if is_later:
                self._claim()  # each time, for whoever had it a moment ago may have done so last
            time.sleep(_LOOK_S)
        self._claim()
        threading.Thread(target=self._watch, name="turn", daemon=True).start()

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: as well as it goes
        return True

    def _is_later(self) -> bool:
        """Whether this one was made after the one that has it, and by the same owner."""
        noted = self._noted()
        return noted["owner"] == self._owner and self._made not in noted["made"]

    def _noted(self) -> dict[str, Any]:
        """Return whose it is, and what was made of it, the last one last."""
        try:
            with open(self._path, encoding="utf-8") as file:
                noted = json.load(file)
            return {"owner": str(noted["owner"]), "made": list(noted["made"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"owner": None, "made": []}

    def _claim(self) -> None:
        noted = self._noted()
        mine = noted["made"] if noted["owner"] == self._owner else []
        if mine[-1:] == [self._made]:
            return
        made = [*(one for one in mine if one != self._made), self._made][-_KEPT:]
        temporary = f"{self._path}.{self._made}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"owner": self._owner, "made": made}, file)
        os.replace(temporary, self._path)

    def _watch(self) -> None:
        """End this process when it is a later one's turn."""
        while True:
            time.sleep(_LOOK_S)
            noted = self._noted()
            if noted["owner"] == self._owner and noted["made"][-1:] != [self._made]:
                self._end()
                return


def _exit() -> None:
    os._exit(0)  # what is on the disk can be gone on with; nothing may be written any more
