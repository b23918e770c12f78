"""What the service manager is told, and its watchdog: sd_notify(3) of systemd, without a library.

The packaged ones are unkept, or know neither MONOTONIC_USEC nor abstract addresses; the protocol is
a promise of systemd's, and one datagram a word. Where nobody listens, every word is a no-op, and
how it stands is not even put into words.
"""

import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
import structlog

__all__ = ("ServiceManager",)

log = structlog.get_logger("castrayd.service")

PINGS: Final = 4
"""So many pings in the time that the watchdog allows: one may be late without harm."""
AGAIN_S: Final = 0.2
LINE_BYTES: Final = 1024
SHOWN_S: Final = 2.0
WAIT_S: Final = 1.0
"""For room in the manager's queue, with what it must hear: without READY it ends us."""


class ServiceManager:
    """systemd, when it has started us; else nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(environ) if self._address else None
        self._said = ""
        self._stopping = False

    def ready(self, line: Callable[[], str]) -> None:
        """Say that the socket answers, and how it stands; also after `reloading`."""
        if self._listens:
            self._said = line()
            self._tell("READY=1", f"STATUS={_line(self._said)}", wait_s=WAIT_S)

    def status(self, line: Callable[[], str]) -> None:
        """Say in a line how it stands, where that is news: `systemctl status` shows it."""
        if self._listens and (text := line()) != self._said:
            self._said = text
            self._tell(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """Say that settings are being read; `ready` must follow."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        if self._listens:  # one datagram, else it is lost
            self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", wait_s=WAIT_S)

    def stopping(self, within_s: float) -> None:
        """Say that the end has begun, and how long it may take, in seconds; the last word."""
        self._stopping = True
        extended = f"EXTEND_TIMEOUT_USEC={within_s * 1e6:.0f}"
        self._tell("STOPPING=1", "STATUS=stopping", extended, wait_s=WAIT_S)

    async def watch(self, *proofs: Callable[[], Awaitable[None]]) -> None:
        """Ping the watchdog whenever every proof of life has returned; until cancelled.

        A proof that does not return, or raises OSError, keeps the ping back and is asked for again
        at once; while none comes, systemd counts, and ends us.
        """
        if self._watchdog_s is None:
            return
        pause_s = self._watchdog_s / PINGS
        while True:
            try:
                with anyio.fail_after(pause_s):
                    for proof in proofs:
                        await proof()
            except (TimeoutError, OSError) as error:
                message = f"no sign of life: {error!r}"
                log.error(message)
                await anyio.sleep(min(AGAIN_S, pause_s))
            else:
                self._tell("WATCHDOG=1")
                await anyio.sleep(pause_s)

    async def keep_shown(self, line: Callable[[], str]) -> None:
        """Say again and again how it stands, where nobody tells when that is news."""
        while self._address:
            await anyio.sleep(SHOWN_S)
            self.status(line)

    @property
    def _listens(self) -> bool:
        """Whether anybody does, and may still be told anything."""
        return bool(self._address) and not self._stopping

    def _tell(self, *lines: str, wait_s: float = 0.0) -> None:
        """Send one datagram; never raises, and waits no longer than it is worth."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, _DATAGRAM) as sender:
            sender.settimeout(wait_s)
            sender.sendto("\n".join(lines).encode(), address)


_DATAGRAM: Final = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often systemd wants to hear of this very process; None: never."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or pid not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6 or None


def _line(text: str) -> str:
    """Make one line of it, for a line break would begin another word."""
    return " ".join(text.split()).encode()[:LINE_BYTES].decode(errors="ignore")
