"""castrayctl's commands for casting: nodes, groups, messages. Loaded when one of them is called."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from castrayd.cli.asking import EXIT_FAILED, Session, asks, fail
from castrayd.cli.client import quoted
from castrayd.cli.terminal import aligned, style, table

__all__ = ("COMMANDS",)

Document = dict[str, Any]

PURGE_S: Final = 300.0
"""One that is silent takes some seconds."""
_STATES: Final = {"ready": "green", "pending": "yellow", "lost": "red"}
_OUTCOMES: Final = {"delivered": "green", "sent": "green"}


@click.group()
def node() -> None:
    """Casting nodes: named receivers on the cluster's hosts."""


@node.command("list")
@asks
def node_list(session: Session) -> None:
    """List all casting nodes of the namespace, this daemon's own first."""
    session.show(session.client.get("/api/nodes"), lambda d: _nodes_lines(d["nodes"]))


@node.command("show")
@click.argument("name")
@asks
def node_show(session: Session, name: str) -> None:
    """Show one casting node."""
    session.show(session.client.get(f"/api/nodes/{quoted(name)}"), _node_lines)


@node.command("create")
@click.argument("name")
@click.option("--node-id", help="On the Ray node with this id.")
@click.option("--address", help="On the node with this address.")
@click.option("--hostname", help="On the node of this host; without any of these: on this host.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="On a node with this.")
@click.option("--port", type=click.IntRange(0, 65535), help="Open a UDP port; 0 is any free one.")
@click.option("--optional", is_flag=True, help="Its loss does not degrade the attachment.")
@asks
def node_create(
    session: Session,
    /,
    name: str,
    labels: tuple[str, ...],
    port: int | None,
    optional: bool,  # noqa: FBT001
    **where: str | None,
) -> None:
    """Want a casting node, over restarts, and make it."""
    on: Document = {key: value for key, value in where.items() if value is not None}
    if labels:
        on["labels"] = _labels(labels)
    body = {"name": name, "on": on or None, "port": port, "required": not optional}
    session.show(session.client.ask("POST", "/api/nodes", body), _node_lines)


def _labels(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if any(not sign for _, sign, _ in pairs):
        raise click.BadParameter("KEY=VALUE is expected", param_hint="'--label'")
    return {key: value for key, _, value in pairs}


@node.command("delete")
@click.argument("name")
@asks
def node_delete(session: Session, name: str) -> None:
    """Want a casting node no more, and remove it; its files stay."""
    answer = session.client.ask("DELETE", f"/api/nodes/{quoted(name)}")
    session.show(answer, lambda _: [f"removed {name}"])


@node.command("purge")
@click.option("--mine", is_flag=True, required=True, help="Every one of this daemon's.")
@asks
def node_purge(session: Session, mine: bool) -> None:  # noqa: ARG001, FBT001
    """Remove all casting nodes that this daemon owns, before it is decommissioned.

    Exit 1 where some are left, which do not answer or are on another cluster.
    """
    answer = session.client.ask("DELETE", "/api/nodes", within_s=PURGE_S)
    session.show(answer, _purged_lines)
    if answer["left"]:
        raise SystemExit(EXIT_FAILED)


def _purged_lines(answer: Document) -> Iterator[str]:
    yield from (f"removed {name}" for name in answer["removed"])
    yield from (f"left {name}: it is removed when it can be" for name in answer["left"])


@click.group()
def group() -> None:
    """Groups: named sets of casting nodes."""


@group.command("list")
@asks
def group_list(session: Session) -> None:
    """List all groups."""
    session.show(session.client.get("/api/groups"), _groups_lines)


@group.command("set")
@click.argument("name")
@click.argument("members", nargs=-1)
@asks
def group_set(session: Session, name: str, members: tuple[str, ...]) -> None:
    """Make a group, or give it these MEMBERS."""
    body = {"members": list(members)}
    answer = session.client.ask("PUT", f"/api/groups/{quoted(name)}", body)
    session.show(answer, lambda g: [f"{g['name']} has {len(g['members'])} members"])


@group.command("delete")
@click.argument("name")
@asks
def group_delete(session: Session, name: str) -> None:
    """Forget a group; its members stay."""
    answer = session.client.ask("DELETE", f"/api/groups/{quoted(name)}")
    session.show(answer, lambda _: [f"removed {name}"])


@click.group()
def message() -> None:
    """Messages between casting nodes."""


@message.command("send")
@click.option("--to", "whom", multiple=True, required=True, metavar="WHOM", help=(
    "A name, udp:HOST:PORT, all, group:NAME, or label:KEY=VALUE; several names may be given."
))  # fmt: skip
@click.option("--from", "sender", metavar="NAME", help="The casting node that sends.")
@click.option("--timeout", type=click.FloatRange(0.01, 300), default=10.0, show_default=True)
@click.option("--retries", type=click.IntRange(0, 100), default=0, show_default=True)
@click.argument("text")
@asks
def message_send(  # noqa: PLR0913, PLR0917  click hands each option over
    session: Session,
    whom: tuple[str, ...],
    sender: str | None,
    text: str,
    timeout: float,
    retries: int,
) -> None:
    """Send TEXT, or what standard input has for `-`; exit 1 unless every recipient has it.

    What is JSON is sent as that.
    """
    said = sys.stdin.read() if text == "-" else text
    body = {
        "to": to(whom), "from": sender, "body": _value(said),
        "timeout_s": timeout, "retries": retries,
    }  # fmt: skip
    answer = session.client.ask("POST", "/api/messages", body, timeout + 10)
    session.show(answer, _cast_lines)
    if answer["failed"]:
        raise SystemExit(EXIT_FAILED)


def to(whom: Sequence[str]) -> object:
    """Turn what `--to` names into the API's words."""
    if len(whom) == 1 and (whom[0] == "all" or whom[0].startswith("group:")):
        return whom[0]
    labels = [text.removeprefix("label:") for text in whom if text.startswith("label:")]
    if labels and len(labels) == len(whom):
        return {"labels": _labels(labels)}
    if labels or any(one == "all" or one.startswith("group:") for one in whom):
        fail(EXIT_FAILED, "all, a group and labels are given alone, names together")
    return list(whom)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


@message.command("list")
@click.argument("name")
@click.option("--since", type=click.IntRange(0), default=0, help="Only what came after this.")
@click.option("--follow", is_flag=True, help="Stay, and show what comes.")
@click.option("--ack", is_flag=True, help="Be done with what is up to --since, or was followed.")
@asks
def message_list(session: Session, name: str, since: int, follow: bool, ack: bool) -> None:  # noqa: FBT001
    """Show what is in the inbox of a casting node; it stays there until it is acknowledged."""
    target = f"/api/nodes/{quoted(name)}/messages?since={since}{'&ack' if ack else ''}"
    if not follow:
        session.show(session.client.get(target), lambda d: map(_message_line, d["messages"]))
        return
    for one in session.client.stream(f"{target}&follow"):
        session.show(one, lambda m: [_message_line(m)])
        sys.stdout.flush()


def _nodes_lines(nodes: Sequence[Document]) -> Iterator[str]:
    rows = [
        (
            one["name"],
            style(one["state"], _STATES[one["state"]]),
            one["hostname"] or "",
            one["address"] or "",
            str(one["port"] or ""),
            f"{one['inbox']['waiting']}/{one['inbox']['capacity']}" if one["inbox"] else "",
            one["owner"][:8],
            one["reason"] or "",
        )
        for one in nodes
    ]
    yield from table(("name", "state", "hostname", "address", "UDP", "inbox", "owner", ""), rows)


def _node_lines(one: Document) -> Iterator[str]:
    yield f"{style(one['name'], 'bold')} {style(one['state'], _STATES[one['state']])}"
    rows = [(key, _text(one[key])) for key in one if key not in {"name", "state"}]
    yield from aligned([(key.replace("_", " "), text) for key, text in rows if text])


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _groups_lines(document: Document) -> Iterator[str]:
    rows = [(one["name"], ", ".join(one["members"])) for one in document["groups"]]
    yield from table(("group", "members"), rows)


def _cast_lines(cast: Document) -> Iterator[str]:
    rows = [
        (
            one["recipient"],
            style(one["outcome"], _OUTCOMES.get(one["outcome"], "red")),
            f"{one['latency_s'] * 1000:.1f} ms",
            one["error"] or "",
        )
        for one in cast["receipts"]
    ]
    if not rows:
        yield "nobody was meant"
    yield from table(("recipient", "outcome", "took", ""), rows)


def _message_line(one: Document) -> str:
    body = one["body"] if isinstance(one["body"], str) else json.dumps(one["body"])
    return f"{one['seq']} {style(one['at'], 'dim')} {style(one['from'], 'bold')} {body}"


COMMANDS: Final[Mapping[str, click.Command]] = {"node": node, "group": group, "message": message}
