"""What the service manager is told, and its watchdog: sd_notify(3) of systemd, without a library.

The packaged ones are unkept, or know neither MONOTONIC_USEC nor abstract addresses; the protocol is
a promise of systemd's, and one datagram a word. Where nobody listens, every word is a no-op.
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

PINGS: Final = 3
"""So many pings in the time that the watchdog allows: one may be late without harm."""
LINE_BYTES: Final = 1024


class ServiceManager:
    """systemd, when it has started us; else nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(environ) if self._address else None

    def ready(self, status: str) -> None:
        """Say that the socket answers; also after `reloading`."""
        self._tell("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Say in a line how it stands: `systemctl status` shows it."""
        self._tell(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """Say that settings are being read; `ready` must follow."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}")  # one datagram, else it is lost

    def stopping(self, within_s: float) -> None:
        """Say that the end has begun, and how long it may take, in seconds."""
        self._tell("STOPPING=1", "STATUS=stopping", f"EXTEND_TIMEOUT_USEC={within_s * 1e6:.0f}")

    async def watch(self, *proofs: Callable[[], Awaitable[None]]) -> None:
        """Ping the watchdog whenever every proof of life has returned; until cancelled.

        A proof that does not return, or raises OSError, keeps the ping back: then systemd ends us.
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
            else:
                self._tell("WATCHDOG=1")
            await anyio.sleep(pause_s)

    def _tell(self, *lines: str) -> None:
        """Send one datagram; never waits and never raises."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, _DATAGRAM) as sender:
            sender.sendto("\n".join(lines).encode(), address)


_DATAGRAM: Final = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often systemd wants to hear of this very process; None: never."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or pid not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6 or None


def _line(text: str) -> str:
    """Make one line of it, for a line break would begin another word."""
    return " ".join(text.split()).encode()[:LINE_BYTES].decode(errors="ignore")
