"""Logging: structlog set up once; fields in the journal, colours on a terminal, else JSON lines.

The level moves. Only the composition root configures; everybody else asks for
`structlog.get_logger()`. Lines are written by `lines`: the daemon never ends, nor waits, for its
log.
"""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO

import structlog

from castrayd.telemetry.encoding import to_json
from castrayd.telemetry.journald import STACK, Journal, entry, is_journal
from castrayd.telemetry.lines import LineWriter, Outlet, Stream

__all__ = ("LEVELS", "LogFormat", "LogLevel", "choose_format", "configure")

EventDict = MutableMapping[str, Any]

LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
)


class LogFormat(StrEnum):
    """How a line looks."""

    CONSOLE = "console"
    JSON = "json"
    JOURNALD = "journald"


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
        if LEVELS[method] < LEVELS[self._level]:
            raise structlog.DropEvent
        return event


def choose_format(wanted: str, stream: TextIO | None, environ: Mapping[str, str]) -> LogFormat:
    """Resolve `auto`: colours on a terminal, fields in the journal, JSON lines everywhere else."""
    if wanted != "auto":
        return LogFormat(wanted)
    if stream and stream.isatty():
        return LogFormat.CONSOLE
    return LogFormat.JOURNALD if is_journal(stream, environ) else LogFormat.JSON


def configure(
    format: LogFormat,  # noqa: A002  the name of the setting
    level: LogLevel,
    now: Callable[[], str],
    bound: Mapping[str, Any],
    stream: TextIO | None = None,
) -> LineWriter[Any]:
    """Set structlog up; returns the writer, to be flushed at the end.

    `bound` goes into every line but a console's (service, host, pid); `stream` gets none of the
    journal's.
    """
    outlet, render = _output(format, stream)

    def stamp(logger: _Logger | None, method: str, event: EventDict) -> EventDict:
        first = {"timestamp": now(), "level": method, "message": event.pop("event")}
        return {**first, "log.logger": logger.name if logger else _OWN, **bound, **event}

    def dropped(count: int) -> str | bytes:
        message = f"{count} log lines were dropped: they could not be written"
        return render(None, "warning", stamp(None, "warning", {"event": message}))

    writer = LineWriter(outlet, dropped)
    structlog.configure(
        processors=[
            level.drop_below,
            structlog.contextvars.merge_contextvars,
            _stack,
            stamp,
            render,
        ],
        logger_factory=lambda name=_OWN: _Logger(name, writer.write),
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return writer


def _stack(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Tell the exception of `exc_info`, True for the one being handled, in OpenTelemetry's keys."""
    given = event.pop("exc_info", None)
    error = sys.exception() if given is True else given
    if isinstance(error, BaseException):
        event["exception.type"] = _class_name(type(error))
        event[STACK] = "".join(traceback.format_exception(error)).rstrip("\n")
    return event


def _class_name(kind: type[BaseException]) -> str:
    own = kind.__module__ == "builtins"
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"


def _output(
    format: LogFormat,  # noqa: A002
    stream: TextIO | None,
) -> tuple[Outlet[Any], Callable[..., str | bytes]]:
    """Return where lines go, and the processor that makes them what is taken there."""
    if format is LogFormat.JOURNALD:
        return Journal(), _entry
    out = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115  for ever
    return Stream(out), _json if format is LogFormat.JSON else Console(out).render


def _entry(_logger: object, _method: str, event: EventDict) -> bytes:
    return entry(event)


def _json(_logger: object, _method: str, event: EventDict) -> str:
    return to_json(event).decode()


_OWN: Final = "castrayd.telemetry"


class _Logger:
    """What structlog calls: each level is a line. `exception` is none: `error` has `exc_info`."""

    def __init__(self, name: str, write: Callable[[Any], None]) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = write


_CONTROLS: Final[Mapping[int, str]] = MappingProxyType(
    dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\N{REPLACEMENT CHARACTER}")
)
"""What Ray says, or a session, must not move the cursor of who reads it."""
_LINES: Final = {code: text for code, text in _CONTROLS.items() if code != ord("\n")}


class Console:
    """One line for a person: time, level, message; the fields only where they add something."""

    _COLOURS: Final[Mapping[str, str]] = MappingProxyType(
        {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
    )

    def __init__(self, stream: TextIO) -> None:
        self._plain = bool(os.environ.get("NO_COLOR")) or not stream.isatty()

    def render(self, _logger: object, method: str, event: EventDict) -> str:
        """Render one event; a structlog processor, the last one."""
        message = str(event["message"]).translate(_CONTROLS)
        head = f"{event['timestamp'][11:23]} {self._level(method)} {message}"
        stack = event.get(STACK)
        return f"{head}\n{stack.translate(_LINES)}" if stack else head

    def _level(self, method: str) -> str:
        name = f"{method:<8}"
        return name if self._plain else f"\x1b[{self._COLOURS.get(method, '0')}m{name}\x1b[0m"
