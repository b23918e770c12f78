"""`castrayctl`: ask the daemon, and tell it. Thin: nearly every command is one request.

The entry point. It must start quickly, so it imports click and the standard library alone, and of
ours only what does the same.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from math import inf
from typing import Any, ClassVar, Final, TypeVar

import click

from castrayd import __version__
from castrayd.cli import render
from castrayd.cli.asking import (
    EXIT_FAILED,
    EXIT_NO_DAEMON,
    EXIT_OTHER_STATE,
    Session,
    asks,
    fail,
)
from castrayd.cli.client import ApiRefusedError, Client, NoDaemonError, quoted
from castrayd.cli.late import LateGroup
from castrayd.control.paths import find_socket

__all__ = ("main",)

_C = TypeVar("_C", bound=Callable[..., object])
STATES: Final = click.Choice(["disconnected", "discovering", "connected", "degraded"])


LONGEST_S: Final = 7 * 86400
"""Of what is to end at all."""


def _timeout(default_s: float, *, endless: bool = False) -> Callable[[_C], _C]:
    """Make the option that every wait has, in seconds."""

    def checked(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
        for_ever = endless and value == inf
        if not (0 <= value <= LONGEST_S or for_ever):  # also refuses what is no number at all
            raise click.BadParameter(f"{value} is not in the range 0<=x<={LONGEST_S}.")
        return value

    return click.option(
        "--timeout", type=float, default=default_s, show_default=True, callback=checked,
        help="Seconds; inf: no limit." if endless else "Seconds.",
    )  # fmt: skip


class _Commands(LateGroup):
    """The commands of casting are loaded when one of them is meant: a status must be quick."""

    LATE: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("group", "message", "node"), "casting"),
        **dict.fromkeys(("file", "transfer"), "files"),
    }


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--socket", metavar="PATH", help="The daemon's control socket.")
@click.option("--instance", metavar="NAME", help="One of several daemons on this host.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's documents as they are.")
@click.pass_context
def main(context: click.Context, socket: str | None, instance: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Talk to castrayd.

    Exit codes: 1 failed, 2 usage, 3 no daemon at the socket, 4 not in the state asked for,
    5 forbidden.
    """
    if sys.stdout is None:  # `>&-`: nobody wants to read, and that is no fault
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  for as long as we live
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without our bars gets a "?"
    path = socket or find_socket(instance, os.environ)
    context.obj = Session(Client(path), as_json)


@main.command()
@click.option("--expect", type=STATES, help="Exit 4 when it is in another state.")
@asks
def status(session: Session, expect: str | None) -> None:
    """Show how the attachment stands, and why."""
    document = session.client.get("/api/status")
    session.show(document, render.status_lines)
    if expect and document["state"] != expect:
        raise SystemExit(EXIT_OTHER_STATE)


@main.command()
@click.option("--for", "state", type=STATES, required=True)
@_timeout(60.0, endless=True)
@asks
def wait(session: Session, state: str, timeout: float) -> None:
    """Wait until the daemon is in a state; survives its restart. Exit 4 when it takes too long."""
    deadline_s = time.monotonic() + timeout
    seen = "no daemon is there"
    while True:
        try:
            # however short the time, a daemon that is there is heard
            for seen in _states(session.client, max(deadline_s, time.monotonic() + _LEAST_S)):
                if seen == state:
                    if session.json:
                        session.show(session.client.get("/api/status"), render.status_lines)
                    return
                if time.monotonic() >= deadline_s:
                    break
        except NoDaemonError:
            seen = "no daemon is there"
        except TimeoutError:
            if seen == "no daemon is there":
                seen = "it does not answer"
            break
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        time.sleep(min(_AGAIN_S, left_s))
    fail(EXIT_OTHER_STATE, f"not {state} within {timeout:g} s: {seen}")


_LEAST_S: Final = 1.0
_AGAIN_S: Final = 0.1
"""While there is no daemon nothing can be followed: look this often."""


def _states(client: Client, deadline_s: float) -> Iterator[str]:
    """Yield the state as it is, and every state that is entered; ends with the stream."""
    target = "/api/events?follow=true&types=castray.state.changed"
    for event in client.stream(target, deadline_s):
        if event["name"] == "snapshot":
            yield event["status"]["state"]
        elif "to" in event:
            yield event["to"]
        else:
            return  # we were too slow and missed some: begin again with a snapshot


@main.command()
@click.option("--address", metavar="HOST:PORT", help="Try this one, once.")
@click.option("--reason", help="For the log.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the attempt's end; 1 if it fails.")
@_timeout(120.0)
@asks
def reconnect(
    session: Session,
    address: str | None,
    reason: str | None,
    waits: bool,  # noqa: FBT001
    timeout: float,
) -> None:
    """Begin an attempt now, or join the one under way."""
    body = {"address": address, "reason": reason}
    answer = session.client.ask("POST", "/api/reconnect", body)
    if not waits:
        verb = "joined" if answer["joined"] else "began"
        session.show(answer, lambda a: [f"{verb} attempt {a['attempt_id']}"])
        return
    attempt = _ended(session.client, answer["attempt_id"], time.monotonic() + timeout)
    session.show(attempt, render.attempt_lines)
    if attempt["outcome"] != "success":
        raise SystemExit(EXIT_FAILED)


def _ended(client: Client, attempt_id: str, deadline_s: float) -> dict[str, Any]:
    """Look at an attempt until it has ended; returns its document."""
    target = f"/api/attempts/{quoted(attempt_id)}"
    while True:
        try:
            attempt: dict[str, Any] = client.get(target)
        except ApiRefusedError as error:
            if error.type != "not_found":
                raise
            # planned, until what went before has ended; or called off before it began
            if client.get("/api/status")["desired"] != "up":
                fail(EXIT_FAILED, "the attempt was called off: paused")
        else:
            if attempt["outcome"] is not None:
                return attempt
        if time.monotonic() > deadline_s:
            fail(EXIT_FAILED, "the attempt has not ended in time")
        time.sleep(_AGAIN_S)


@main.command()
@click.option("--reason", help="Shown in status for as long as it lasts.")
@asks
def pause(session: Session, reason: str | None) -> None:
    """End the session and make no attempt until resumed, over restarts too."""
    _want(session, "pause", reason)


@main.command()
@click.option("--reason", help="Shown in status for as long as it lasts.")
@asks
def resume(session: Session, reason: str | None) -> None:
    """Want the attachment back."""
    _want(session, "resume", reason)


def _want(session: Session, verb: str, reason: str | None) -> None:
    answer = session.client.ask("POST", f"/api/{verb}", {"reason": reason})
    session.show(answer, lambda a: [f"desired: {a['desired']}"])


@main.command()
@asks
def reload(session: Session) -> None:
    """Read the settings anew; a faulty file changes nothing."""
    session.show(session.client.ask("POST", "/api/reload", {}), render.reload_lines)


@main.command()
@click.argument("attempt_id", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@asks
def attempts(session: Session, attempt_id: str | None, limit: int) -> None:
    """List attempts, newest first; with an id show one, phase by phase."""
    if attempt_id:
        one = session.client.get(f"/api/attempts/{quoted(attempt_id)}")
        session.show(one, render.attempt_lines)
        return
    document = session.client.get(f"/api/attempts?limit={limit}")
    session.show(document, lambda d: render.attempts_lines(d["attempts"]))


@main.command()
@click.option("--follow", "-f", is_flag=True, help="Stay, and show what comes.")
@click.option("--since", type=click.IntRange(min=0), default=0, help="Begin after this number.")
@click.option("--types", help="Names of events, separated by commas.")
@asks
def events(session: Session, follow: bool, since: int, types: str | None) -> None:  # noqa: FBT001
    """Show what happened, and with --follow what happens, until Ctrl-C."""
    target = f"/api/events?since={since}"
    target += "&follow=true" if follow else ""
    target += f"&types={quoted(types)}" if types else ""
    try:
        for event in session.client.stream(target):
            session.show(event, lambda e: [render.event_line(e)])
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
    if follow:
        fail(EXIT_NO_DAEMON, "the daemon has ended")


@main.command()
@click.argument("address", required=False)
@click.option(
    "--config",
    metavar="FILE",
    envvar="CASTRAYD_CONFIG",
    help="Settings, where no daemon is there to ask.",
)
@click.option(
    "--bundle", metavar="FILE", help="Write an archive for a bug report; holds no secret."
)
@asks
def doctor(session: Session, address: str | None, config: str | None, bundle: str | None) -> None:
    """Walk to every known cluster, or to ADDRESS, and look at this host; changes nothing.

    Works without a daemon too. Exit 1 when anything has failed.
    """
    from castrayd.cli import doctor as command  # noqa: PLC0415  no other command needs it

    aim = command.checked(address)
    report = command.examined(session.client, aim, config)
    session.show(report, command.lines)
    if bundle:
        command.write_bundle(session, report, bundle)
    if not report["ok"]:
        raise SystemExit(EXIT_FAILED)


@main.group()
def cluster() -> None:
    """Look at the cluster."""


@cluster.command("nodes")
@asks
def cluster_nodes(session: Session) -> None:
    """List the cluster's nodes."""
    document = session.client.get("/api/cluster/nodes")
    session.show(document, lambda d: render.nodes_lines(d["nodes"]))


@main.command("log-level")
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error"]))
@asks
def log_level(session: Session, level: str | None) -> None:
    """Show the daemon's log level, or move it until its next start or reload."""
    if level:
        answer = session.client.ask("PUT", "/api/log-level", {"level": level})
    else:
        answer = session.client.get("/api/log-level")
    session.show(answer, lambda a: [a["level"]])


@main.command()
@click.argument("error_class", metavar="CLASS", required=False)
@click.pass_obj
def explain(session: Session, error_class: str | None) -> None:
    """Say what a class of error means and what to do; without one, list them. Needs no daemon."""
    from difflib import get_close_matches  # noqa: PLC0415  no other command needs these

    from castrayd.errors import ERROR_CLASSES, ErrorType  # noqa: PLC0415

    known = {str(kind): asdict(ERROR_CLASSES[kind]) for kind in ErrorType}
    if error_class is None:
        session.show({"classes": known}, lambda d: render.classes_lines(d["classes"]))
    elif error_class in known:
        one = {"type": error_class, **known[error_class]}
        session.show(one, render.class_lines)
    else:
        near = get_close_matches(error_class, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`castrayctl explain` lists them."
        fail(EXIT_FAILED, f"no such class of error: {error_class}", hint)


@main.command()
@asks
def version(session: Session) -> None:
    """Show the daemon's versions."""
    answer = session.client.get("/api/version")
    session.show(answer, lambda a: [f"{name}: {value}" for name, value in a.items()])
