"""What every command of castrayctl has: the daemon that it asks, and how failures end it."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, NoReturn, ParamSpec

import click

from castrayd.cli.client import ApiRefusedError, Client, NoDaemonError
from castrayd.cli.terminal import clean

__all__ = ("EXIT_FAILED", "EXIT_NO_DAEMON", "EXIT_OTHER_STATE", "Session", "asks", "fail")

EXIT_FAILED: Final = 1
EXIT_NO_DAEMON: Final = 3
EXIT_OTHER_STATE: Final = 4
EXIT_FORBIDDEN: Final = 5

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Session:
    """The daemon that is asked, and how its answers are shown."""

    client: Client
    json: bool

    def show(self, document: Any, lines: Callable[[Any], Iterable[str]]) -> None:  # noqa: ANN401
        """Print the document itself, or the lines that are made of it for people."""
        if self.json:
            click.echo(json.dumps(document, ensure_ascii=False))
            return
        for line in lines(clean(document)):
            click.echo(line)


def fail(code: int, message: str, hint: str | None = None) -> NoReturn:
    """Say why on standard error, what to do on a second line, and exit."""
    with suppress(OSError):  # a full standard error does not change how it ended
        click.echo(f"castrayctl: {clean(message)}", err=True)
        if hint:
            click.echo(f"  → {clean(hint)}", err=True)
    raise SystemExit(code)


@contextmanager
def _failures(path: str) -> Iterator[None]:
    """Turn what can go wrong between us and the daemon into messages and exit codes."""
    try:
        yield
    except NoDaemonError as error:
        fail(EXIT_NO_DAEMON, f"no daemon at {error}", f"Start it: {_start(path)}")
    except ApiRefusedError as error:
        code = EXIT_FORBIDDEN if error.type == "forbidden" else EXIT_FAILED
        where = f" ({error.field})" if error.field else ""
        fail(code, f"{error.type}: {error.message}{where}", error.hint)
    except TimeoutError:
        fail(EXIT_FAILED, "the daemon does not answer")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `castrayctl events | head` is no error
            fail(EXIT_FAILED, f"cannot write: {error.strerror}")


def _start(path: str) -> str:
    """Say how the daemon of a socket is started: by systemd, where its unit is installed."""
    name = path.removeprefix("/run/").removesuffix("/control.sock")
    service, dash, instance = name.partition("-")
    unit = f"{service}@" if dash else service
    places = (f"{folder}/{unit}.service" for folder in _SYSTEM)
    if service == "castrayd" and any(map(os.path.exists, places)):
        return f"systemctl start {unit}{instance}"
    return "castrayd run"


_SYSTEM: Final = (
    "/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
)  # fmt: skip


def asks(command: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Give a command the daemon, and its failures their exit codes."""

    @click.pass_obj
    @wraps(command)
    def asking(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with _failures(session.client.path):
            command(session, *args, **kwargs)

    return asking
