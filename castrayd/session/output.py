"""What a session's process says: cut into lines, bounded in length and rate, the last kept.

A session knows the cluster's token, and Ray or an interpreter may print what it knows: the token is
taken out here, before anybody else sees the line.
"""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.errors import redacted

__all__ = ("Output", "SessionLine")

LINE_BYTES: Final = 2048
REST_BYTES: Final = 65536
"""A line that does not end is cut here."""
LINES_KEPT: Final = 20
BURST_LINES: Final = 50
LINES_PER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class SessionLine:
    """One line that a session's process wrote."""

    session_id: str
    stream: str
    """`stdout` or `stderr`."""
    text: str


class Output:
    """Reads the output pipes of one session."""

    def __init__(
        self, session_id: str, tell: Callable[[SessionLine], None], secret: str | None = None
    ) -> None:
        self._secret = secret
        self._session_id = session_id
        self._tell = tell
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._dropped = 0
        self._allowance = float(BURST_LINES)
        self._refilled_s = 0.0
        self.silent = False
        """Set before an intended kill: what Ray prints then is no news."""

    def last_words(self) -> str:
        """The last lines, joined; empty when it said nothing."""
        return " | ".join(self._last)

    async def follow(self, stream: str, descriptor: int) -> None:
        """Read one pipe until its end."""
        os.set_blocking(descriptor, False)
        rest = b""
        while True:
            await anyio.wait_readable(descriptor)
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(stream, line)
            if len(rest) > REST_BYTES:
                self._line(stream, rest)
                rest = b""
        self._line(stream, rest)

    def drain(self, stream: str, descriptor: int) -> None:
        """Take what a process that has ended left in its pipe; never waits."""
        os.set_blocking(descriptor, False)
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            return
        for line in data.split(b"\n"):
            self._line(stream, line)

    def _line(self, stream: str, raw: bytes) -> None:
        text = redacted(raw.decode(errors="replace"), self._secret).strip()[:LINE_BYTES]
        if not text or self.silent:
            return
        self._last.append(text)
        if not self._may_tell():
            self._dropped += 1
            return
        if self._dropped:
            note = f"[{self._dropped} lines dropped]"
            self._dropped = 0
            self._tell(SessionLine(self._session_id, stream, note))
        self._tell(SessionLine(self._session_id, stream, text))

    def _may_tell(self) -> bool:
        now_s = anyio.current_time()
        refill = (now_s - self._refilled_s) * LINES_PER_S
        self._allowance = min(float(BURST_LINES), self._allowance + refill)
        self._refilled_s = now_s
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True
