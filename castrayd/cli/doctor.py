"""`castrayctl doctor`: the daemon's report, or our own where there is none, and how it is shown.

Imported when it is asked for. What it sees is `supervisor.doctor`'s business; without a daemon
that is loaded here, with the settings that `castrayd run` would take.
"""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from castrayd.cli.asking import EXIT_FAILED, Session, fail
from castrayd.cli.bundle import pack, read_all
from castrayd.cli.client import Client, NoDaemonError, quoted
from castrayd.cli.terminal import aligned, style
from castrayd.core.candidates import parse_address
from castrayd.errors import AttachError, SettingsError

__all__ = ("checked", "examined", "lines", "write_bundle")

Document = dict[str, Any]

ANSWER_S: Final = 120.0
"""A file of many addresses is walked in turns, and another doctor may be before us."""


def checked(address: str | None) -> str | None:
    """Return the address as it is to be used; a bad one is wrong usage."""
    if address is None:
        return None
    try:
        return parse_address(address).url
    except AttachError as error:
        raise click.BadParameter(error.fault.message, param_hint="'ADDRESS'") from error


def examined(client: Client, address: str | None, config: str | None) -> Document:
    """Have the daemon look, which has the token and the rights that count; else look ourselves."""
    target = f"/api/doctor?address={quoted(address)}" if address else "/api/doctor"
    try:
        report: Document = client.get(target, ANSWER_S)
    except NoDaemonError:
        return _alone(client.path, address, config)
    return report


def _alone(socket_path: str, address: str | None, config: str | None) -> Document:
    import anyio  # noqa: PLC0415  the daemon's own parts: only where there is no daemon
    import msgspec  # noqa: PLC0415

    from castrayd import daemon  # noqa: PLC0415

    request = daemon.RunRequest(Path(config) if config else None, environ=dict(os.environ))
    try:
        examiner = daemon.doctor(request, socket_path)
    except SettingsError as error:
        fail(EXIT_FAILED, str(error), "`castrayd check-config` names every fault.")
    report = anyio.run(partial(examiner.examine, address, None), backend="asyncio")
    alone: Document = json.loads(msgspec.json.encode(report))
    return alone


def write_bundle(session: Session, report: Document, path: str) -> None:
    """Write the archive; the report itself is shown already."""
    from castrayd.supervisor.connection import find_token  # noqa: PLC0415  as in `_alone`

    token = find_token(report["settings"]["ray"]["token_file"], os.environ).value
    members = {"doctor": report, **read_all(session.client, report)}
    try:
        pack(path, members, token)
    except OSError as error:
        fail(EXIT_FAILED, f"cannot write {path}: {error.strerror}")
    if not session.json:
        click.echo(f"wrote {path}")


# --- how it is shown ---

_MARKS: Final = {
    "ok": style("✔", "green"),
    "failed": style("✘", "red"),
    "warning": style("!", "yellow"),
    "unknown": style("?", "yellow"),
    "not_reached": style("·", "dim"),
}
_WORDS: Final = max(map(len, _MARKS))


def lines(report: Document) -> Iterator[str]:
    """Show each candidate step by step, then the host, then what it comes to."""
    for walk in report["candidates"]:
        yield from _walk_lines(walk)
    if report["error"]:
        yield style(report["error"]["type"], "red", "bold")
        yield from aligned(_fault_rows(report["error"]))
    yield style("this host", "bold") + f"  seen by {report['by']} as uid {report['uid']}"
    yield from aligned(row for check in report["host"] for row in _check_rows(check))
    yield _verdict(report)


def _walk_lines(walk: Document) -> Iterator[str]:
    about = [walk["source"], walk["mode"], "hearsay" if walk["hearsay"] else None]
    yield f"{style(walk['address'], 'bold')}  {', '.join(filter(None, about))}"
    yield from aligned(_walk_rows(walk))


def _walk_rows(walk: Document) -> Iterator[tuple[str, str]]:
    failed = [step for step in walk["steps"] if step["outcome"] == "failed"]
    for step in walk["steps"]:
        yield step["name"], _outcome(step["outcome"], _took(step["seconds"]) + _seen(step["seen"]))
        if step in failed:
            yield from _fault_rows(walk["error"])
    if walk["error"] and not failed:
        yield from _fault_rows(walk["error"])


def _fault_rows(fault: Document) -> Iterator[tuple[str, str]]:
    yield "", f"{style(fault['type'], 'red', 'bold')}: {fault['message']}"
    yield "", f"→ {fault['hint']}"


def _check_rows(check: Document) -> Iterator[tuple[str, str]]:
    yield check["name"], _outcome(check["verdict"], check["seen"])
    if check["remedy"]:
        yield "", f"→ {check['remedy']}"


def _outcome(outcome: str, text: str) -> str:
    """Mark it, and say it in a word too, for those who search."""
    return f"{_MARKS[outcome]} {outcome.replace('_', ' '):<{_WORDS}}  {text}".rstrip()


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:>7.1f} ms  "


def _seen(seen: Document) -> str:
    told = ((name.replace("_", " "), value or "unknown") for name, value in seen.items())
    return ", ".join(f"{name} {value}" for name, value in told)


def _verdict(report: Document) -> str:
    if not report["ok"]:
        return style("not well", "red", "bold") + ": see what has failed above"
    warned = sum(check["verdict"] != "ok" for check in report["host"])
    some = f", with {warned} of this host to look at" if warned else ""
    return style("all is well", "green", "bold") + some
