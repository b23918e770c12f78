"""castrayctl's commands for files: send, list, cancel, retry. Loaded when one of them is called."""

import contextlib
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from castrayd.casting.plans import ACTIVE
from castrayd.cli.asking import EXIT_FAILED, Session, asks, fail
from castrayd.cli.casting import to
from castrayd.cli.client import ApiRefusedError, quoted
from castrayd.cli.terminal import bar, coloured, style, table

__all__ = ("COMMANDS",)

Document = dict[str, Any]

_STATES: Final = {
    "done": "green", "running": "blue", "queued": "blue", "interrupted": "yellow",
    "partial": "yellow", "failed": "red", "cancelled": "yellow",
}  # fmt: skip
LOOK_S: Final = 0.25
BAR_CELLS: Final = 30
UPLOAD_S: Final = 24 * 3600.0


@click.group()
def file() -> None:
    """Files between casting nodes."""


@file.command("send")
@click.argument("source", metavar="SOURCE")
@click.option("--to", "whom", multiple=True, required=True, metavar="WHOM", help=(
    "A name, all, group:NAME, or label:KEY=VALUE; several names may be given."
))  # fmt: skip
@click.option("--path", metavar="ROOT:REL", help="Where it goes; files:NAME without it.")
@click.option(
    "--if-exists", type=click.Choice(["refuse", "replace", "keep_both"]), default="refuse",
    show_default=True,
)  # fmt: skip
@click.option("--bandwidth", type=click.IntRange(1), metavar="BYTES_S", help="At most this.")
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@asks
def file_send(  # noqa: PLR0913, PLR0917  click hands each option over
    session: Session,
    source: str,
    whom: tuple[str, ...],
    path: str | None,
    if_exists: str,
    bandwidth: int | None,
    detach: bool,  # noqa: FBT001
) -> None:
    """Send SOURCE, a file here or NODE:ROOT:PATH; exit 1 unless every recipient has it."""
    body: Document = {
        "to": to(whom),
        "path": path or f"files:{source.rpartition(':')[2].rpartition('/')[2]}",
        "if_exists": if_exists,
        "bandwidth_bytes_s": bandwidth,
    }
    one = _begun(session, body, _source(session, source))
    if not detach:
        one = _followed(session, one)
    session.show(one, transfer_lines)
    if not detach and one["state"] != "done":
        raise SystemExit(EXIT_FAILED)


def _begun(session: Session, body: Document, source: Document) -> Document:
    """Have a transfer begin; what was uploaded for it goes where it does not."""
    try:
        one: Document = session.client.ask("POST", "/api/transfers", {**body, "source": source})
    except ApiRefusedError:
        if "upload" in source:
            with contextlib.suppress(ApiRefusedError):  # why the transfer was is what matters
                session.client.ask("DELETE", f"/api/uploads/{quoted(source['upload'])}")
        raise
    return one


def _source(session: Session, text: str) -> Document:
    """Take a file here up; a name that no file here has is a casting node's."""
    file = Path(text)
    if not file.is_file() and text.count(":") >= 2:  # noqa: PLR2004  NODE:ROOT:PATH
        node, _, path = text.partition(":")
        return {"node": node, "path": path}
    name = f"{socket.gethostname()[:20]}-{uuid.uuid4().hex[:16]}"
    try:
        data = file.open("rb")
    except OSError as error:
        fail(EXIT_FAILED, f"{text}: {error.strerror}")
    with data:
        session.client.upload(f"/api/uploads/{quoted(name)}?once", data, UPLOAD_S)
    return {"upload": name}


def _followed(session: Session, one: Document) -> Document:
    """Look at a transfer until it has ended; on a terminal with a bar."""
    shows = coloured() and not session.json
    while one["state"] in ACTIVE:
        if shows:
            click.echo(f"\r\x1b[K{_bar(one)}", nl=False)
        time.sleep(LOOK_S)
        one = session.client.get(f"/api/transfers/{quoted(one['id'])}")
    if shows:
        click.echo("\r\x1b[K", nl=False)
    return one


def _bar(one: Document) -> str:
    whole = (one["bytes_total"] or 0) * len(one["recipients"])
    share = one["bytes_verified"] / whole if whole else 0.0
    parts = [bar(share, BAR_CELLS).ljust(BAR_CELLS), f"{share:4.0%}"]
    if one["speed_bytes_s"]:
        parts.append(f"{_size(one['speed_bytes_s'])}/s")
    if one["eta_s"] is not None:
        parts.append(f"{one['eta_s']:.0f} s left")
    if one["state"] != "running":
        parts.append(f"{one['state']} {one['reason'] or ''}")
    return "  ".join(parts)


@click.group()
def transfer() -> None:
    """Files on their way, and those that have ended."""


@transfer.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@asks
def transfer_list(session: Session, limit: int) -> None:
    """List transfers, the newest first."""
    document = session.client.get(f"/api/transfers?limit={limit}")
    session.show(document, lambda d: _table(d["transfers"]))


@transfer.command("show")
@click.argument("transfer_id", metavar="ID")
@asks
def transfer_show(session: Session, transfer_id: str) -> None:
    """Show one transfer, recipient by recipient."""
    session.show(session.client.get(f"/api/transfers/{quoted(transfer_id)}"), transfer_lines)


@transfer.command("cancel")
@click.argument("transfer_id", metavar="ID")
@asks
def transfer_cancel(session: Session, transfer_id: str) -> None:
    """End a transfer; partial files are removed, whole ones stay."""
    answer = session.client.ask("DELETE", f"/api/transfers/{quoted(transfer_id)}")
    session.show(answer, transfer_lines)


@transfer.command("retry")
@click.argument("transfer_id", metavar="ID")
@asks
def transfer_retry(session: Session, transfer_id: str) -> None:
    """Begin again with the recipients that do not have the file."""
    answer = session.client.ask("POST", f"/api/transfers/{quoted(transfer_id)}/retry", {})
    session.show(answer, transfer_lines)


def transfer_lines(one: Document) -> Iterator[str]:
    """Show one transfer."""
    size = "" if one["bytes_total"] is None else f", {_size(one['bytes_total'])}"
    yield f"{one['id']} {style(one['state'], _STATES[one['state']])}{size}"
    source = one["source"]
    what = source.get("upload") or f"{source['node']}:{source['path']}"
    yield f"  {what} → {one['path']}"
    if one["sha256"]:
        yield f"  sha256 {one['sha256']}"
    if one["reason"]:
        yield f"  {one['reason']}"
    yield from _parts(one["recipients"])


def _parts(parts: Sequence[Document]) -> Iterator[str]:
    rows = [
        (
            part["recipient"],
            style("same" if part["skipped"] else part["state"], _STATES[part["state"]]),
            _size(part["bytes_verified"]),
            _size(part["bytes_sent"]),
            f"{part['error']['type']}: {part['error']['message']}" if part["error"] else "",
        )
        for part in parts
    ]
    yield from table(("  recipient", "state", "verified", "sent", ""), rows)


def _table(transfers: Sequence[Document]) -> Iterator[str]:
    rows = [
        (
            one["id"],
            style(one["state"], _STATES[one["state"]]),
            one["created_at"][:19].replace("T", " ") + "Z",
            "" if one["bytes_total"] is None else _size(one["bytes_total"]),
            f"{sum(p['state'] == 'done' for p in one['recipients'])}/{len(one['recipients'])}",
            one["path"],
        )
        for one in transfers
    ]
    yield from table(("id", "state", "begun", "size", "have it", "path"), rows)


def _size(count: float) -> str:
    """Show bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


COMMANDS: Final[Mapping[str, click.Command]] = {"file": file, "transfer": transfer}
