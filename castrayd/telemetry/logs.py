"""Logging: structlog set up once, JSON lines off a terminal, colours on one, a level that moves.

Only the composition root configures; everybody else asks for `structlog.get_logger()`. A log
line that cannot be written is dropped: the daemon never ends, nor waits, for its log.
"""

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TextIO

import msgspec
import structlog

__all__ = ("LEVELS", "LogFormat", "LogLevel", "choose_format", "configure")

EventDict = MutableMapping[str, Any]

LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
)


class LogFormat(StrEnum):
    """How a line looks."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel:
    """The level in force; a request may move it while the daemon runs."""

    def __init__(self, level: str) -> None:
        self._level = level

    def get(self) -> str:
        """Return the name of the level."""
        return self._level

    def set(self, level: str) -> None:
        """Move the level. Raises KeyError for a name that is none."""
        _ = LEVELS[level]
        self._level = level

    def drop_below(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """Drop what is below the level; a structlog processor."""
        if LEVELS.get(method, 0) < LEVELS[self._level]:
            raise structlog.DropEvent
        return event


def choose_format(wanted: str, stream: TextIO) -> LogFormat:
    """Resolve `auto`: colours on a terminal, JSON lines everywhere else."""
    if wanted == "auto":
        return LogFormat.CONSOLE if stream.isatty() else LogFormat.JSON
    return LogFormat.CONSOLE if wanted == "console" else LogFormat.JSON


def configure(
    format: LogFormat,  # noqa: A002  the name of the setting
    level: LogLevel,
    now: Callable[[], str],
    bound: Mapping[str, Any],
    stream: TextIO | None = None,
) -> None:
    """Set structlog up. `bound` goes into every JSON line (service, host, pid)."""
    out = stream or sys.stderr

    def stamp(_logger: object, method: str, event: EventDict) -> EventDict:
        message = event.pop("event")
        return {"timestamp": now(), "level": method, "message": message, **bound, **event}

    render: Callable[..., str] = _json if format is LogFormat.JSON else Console(out).render
    structlog.configure(
        processors=[
            level.drop_below,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            stamp,
            render,
        ],
        logger_factory=lambda *_: _Writer(out),
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _json(_logger: object, _method: str, event: EventDict) -> str:
    return _ENCODER.encode(event).decode()


_ENCODER = msgspec.json.Encoder(enc_hook=str)


class _Writer:
    """Writes a line, and drops it where that is not possible."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:
            return  # a full disk or a reader that is gone must not end the daemon

    debug = info = warning = error = critical = exception = msg


class Console:
    """One line for a person: time, level, message; the fields only where they add something."""

    _COLOURS: Final[Mapping[str, str]] = MappingProxyType(
        {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
    )
    _SHOWN: Final = ("exception",)

    def __init__(self, stream: TextIO) -> None:
        self._plain = bool(os.environ.get("NO_COLOR")) or not stream.isatty()

    def render(self, _logger: object, method: str, event: EventDict) -> str:
        """Render one event; a structlog processor, the last one."""
        head = f"{event['timestamp'][11:23]} {self._level(method)} {event['message']}"
        return "\n".join([head, *(str(event[key]) for key in self._SHOWN if key in event)])

    def _level(self, method: str) -> str:
        name = f"{method:<8}"
        return name if self._plain else f"\x1b[{self._COLOURS.get(method, '0')}m{name}\x1b[0m"
