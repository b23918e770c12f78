"""`castrayctl`: ask the daemon, and tell it. Thin: every command is one request."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, NoReturn, ParamSpec

import click

from castrayd import __version__
from castrayd.cli import render
from castrayd.cli.client import ApiRefusedError, Client, NoDaemonError
from castrayd.control.paths import default_socket_path

__all__ = ("main",)

EXIT_FAILED: Final = 1
EXIT_NO_DAEMON: Final = 3
EXIT_OTHER_STATE: Final = 4
EXIT_FORBIDDEN: Final = 5

STATES: Final = click.Choice(["disconnected", "discovering", "connected", "degraded"])
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Session:
    """The daemon that is asked, and how its answers are shown."""

    client: Client
    json: bool

    def show(self, document: Any, lines: Callable[[], Any]) -> None:  # noqa: ANN401  JSON
        """Print the document itself, or what is made of it for people."""
        if self.json:
            click.echo(json.dumps(document, ensure_ascii=False))
            return
        for line in lines():
            click.echo(line)


def _fail(code: int, message: str, hint: object = None) -> NoReturn:
    click.echo(f"castrayctl: {message}", err=True)
    if hint:
        click.echo(f"  → {hint}", err=True)
    raise SystemExit(code)


def asks(
    command: Callable[Concatenate[Session, P], None],
) -> Callable[P, None]:
    """Give a command the daemon, and its refusals their exit codes."""

    @click.pass_obj
    @wraps(command)
    def asking(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(session, *args, **kwargs)
        except NoDaemonError as error:
            _fail(EXIT_NO_DAEMON, f"no daemon at {error}", "Start it: castrayd run")
        except ApiRefusedError as error:
            code = EXIT_FORBIDDEN if error.type == "forbidden" else EXIT_FAILED
            where = f" ({error.field})" if error.field else ""
            _fail(code, f"{error.type}: {error.message}{where}", error.hint)
        except TimeoutError:
            _fail(EXIT_FAILED, "the daemon does not answer")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` is no error

    return asking


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--socket", metavar="PATH", help="The daemon's control socket.")
@click.option("--instance", metavar="NAME", help="One of several daemons on this host.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's documents as they are.")
@click.pass_context
def main(context: click.Context, socket: str | None, instance: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Talk to castrayd. Exit codes: 1 failed, 2 usage, 3 no daemon, 4 other state, 5 forbidden."""
    path = socket or str(default_socket_path(instance, os.environ))
    context.obj = Session(Client(path), as_json)


@main.command()
@click.option("--expect", type=STATES, help="Exit 4 when it is in another state.")
@asks
def status(session: Session, expect: str | None) -> None:
    """Show how the attachment stands, and why."""
    document = session.client.get("/api/status")
    session.show(document, lambda: render.status_lines(document))
    if expect and document["state"] != expect:
        raise SystemExit(EXIT_OTHER_STATE)


@main.command()
@click.option("--for", "state", type=STATES, required=True)
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True)
@click.pass_obj
def wait(session: Session, state: str, timeout: float) -> None:
    """Wait until the daemon is in a state; survives its restart. Exit 4 when it takes too long."""
    deadline = time.monotonic() + timeout
    reached = "no daemon"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            for event in session.client.stream(_WAIT_TARGET, left_s):
                reached = event["status"]["state"] if event["name"] == "snapshot" else event["to"]
                if reached == state:
                    return
                if time.monotonic() > deadline:
                    break
        except NoDaemonError:
            time.sleep(min(_WAIT_S, max(0.0, left_s)))
        except TimeoutError:
            break
        except ApiRefusedError as error:
            _fail(EXIT_FORBIDDEN if error.type == "forbidden" else EXIT_FAILED, error.message)
    _fail(EXIT_OTHER_STATE, f"not {state} within {timeout:g} s, but {reached}")


_WAIT_TARGET: Final = "/api/events?follow=true&types=castray.state.changed"
_WAIT_S: Final = 0.2


@main.command()
@click.option("--address", metavar="HOST:PORT", help="Try this one, once.")
@click.option("--reason", default=None)
@asks
def reconnect(session: Session, address: str | None, reason: str | None) -> None:
    """Begin an attempt now, or join the one under way."""
    body = {"address": address, "reason": reason}
    answer = session.client.ask("POST", "/api/reconnect", body)
    verb = "joined" if answer["joined"] else "began"
    session.show(answer, lambda: [f"{verb} attempt {answer['attempt_id']}"])


@main.command()
@click.option("--reason", default=None)
@asks
def pause(session: Session, reason: str | None) -> None:
    """End the session and make no attempt until resumed, over restarts too."""
    _want(session, "pause", reason)


@main.command()
@click.option("--reason", default=None)
@asks
def resume(session: Session, reason: str | None) -> None:
    """Want the attachment back."""
    _want(session, "resume", reason)


def _want(session: Session, verb: str, reason: str | None) -> None:
    answer = session.client.ask("POST", f"/api/{verb}", {"reason": reason})
    session.show(answer, lambda: [f"desired: {answer['desired']}"])


@main.command()
@asks
def reload(session: Session) -> None:
    """Read the settings anew; a faulty file changes nothing."""
    answer = session.client.ask("POST", "/api/reload", {})
    session.show(answer, lambda: _reload_lines(answer))


def _reload_lines(answer: dict[str, Any]) -> list[str]:
    lines = [f"changed: {', '.join(answer['changed']) or 'nothing'}"]
    if answer["reconnect"]:
        lines.append("a new session is being made")
    if answer["restart_required"]:
        lines.append(f"needs a restart: {', '.join(answer['restart_required'])}")
    return lines


@main.command()
@click.argument("attempt_id", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@asks
def attempts(session: Session, attempt_id: str | None, limit: int) -> None:
    """List attempts, newest first; with an id show one, phase by phase."""
    if attempt_id:
        one = session.client.get(f"/api/attempts/{attempt_id}")
        session.show(one, lambda: render.attempt_lines(one))
        return
    document = session.client.get(f"/api/attempts?limit={limit}")
    session.show(document, lambda: render.attempts_lines(document["attempts"]))


@main.command()
@click.option("--follow", "-f", is_flag=True, help="Stay, and show what comes.")
@click.option("--since", type=click.IntRange(min=0), help="Begin after this number.")
@click.option("--types", help="Names of events, separated by commas.")
@asks
def events(session: Session, follow: bool, since: int | None, types: str | None) -> None:  # noqa: FBT001
    """Show what happened, and with --follow what happens."""
    query = [f"since={since or 0}"]
    query += ["follow=true"] if follow else []
    query += [f"types={types}"] if types else []
    try:
        for event in session.client.stream(f"/api/events?{'&'.join(query)}"):
            session.show(event, lambda event=event: [render.event_line(event)])  # type: ignore[misc]
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


@main.group()
def cluster() -> None:
    """Look at the cluster."""


@cluster.command("nodes")
@asks
def cluster_nodes(session: Session) -> None:
    """List the cluster's nodes."""
    document = session.client.get("/api/cluster/nodes")
    session.show(document, lambda: render.nodes_lines(document["nodes"]))


@main.command("log-level")
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error"]))
@asks
def log_level(session: Session, level: str | None) -> None:
    """Show the daemon's log level, or move it."""
    if level:
        answer = session.client.ask("PUT", "/api/log-level", {"level": level})
    else:
        answer = session.client.get("/api/log-level")
    session.show(answer, lambda: [answer["level"]])


@main.command()
@asks
def version(session: Session) -> None:
    """Show the daemon's versions."""
    answer = session.client.get("/api/version")
    session.show(answer, lambda: [f"{name}: {value}" for name, value in answer.items()])
