"""How castrayctl shows the API's documents to people. `--json` does not come here.

`castrayctl` alone calls it, with documents that `terminal.clean` has been over. Everything here
returns lines; what a terminal wants otherwise than a pipe is decided in `terminal`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from castrayd.cli.terminal import TIE, aligned, bar, cell, coloured, style, table

__all__ = (
    "attempt_lines",
    "attempts_lines",
    "class_lines",
    "classes_lines",
    "event_line",
    "nodes_lines",
    "reload_lines",
    "status_lines",
)

Document = dict[str, Any]

_STATES: Final = {
    "connected": "green",
    "degraded": "yellow",
    "discovering": "blue",
    "disconnected": "red",
}
_OUTCOMES: Final = {"success": "green", "failure": "red", "cancelled": "yellow", None: "blue"}
BAR_CELLS: Final = 24
ID_CHARS: Final = 12


def status_lines(status: Document) -> Iterator[str]:
    """Show the whole truth in one look."""
    yield _headline(status)
    yield from aligned(_status_rows(status))
    for warning in status["warnings"]:
        yield style(f"  ! {warning['message']}", "yellow")
        yield f"    {warning['hint']}"


def _headline(status: Document) -> str:
    colour = _STATES[status["state"]]
    dot = f"{style('●', colour)} " if coloured() else ""
    state = style(status["state"], colour, "bold")
    since = style(f"since {_moment(status['since'])}", "dim")
    return f"{dot}{state} for {_seconds(status['state_s'])}, {since}"


def _status_rows(status: Document) -> Iterator[tuple[str, str]]:
    if status["desired"] != "up":
        yield "desired", _desired(status)
    yield from _fault_rows(status)
    if status["next_retry_in_s"] is not None:
        yield "next try", f"in {_seconds(status['next_retry_in_s'])}{_tries(status['attempt'])}"
    if address := status["address"]:
        yield "address", f"{style(address['url'], 'bold')}  {address['source']}, {address['mode']}"
    yield from _cluster_rows(status["cluster"])
    if session := status["session"]:
        versions = f"Python {session['python']}, Ray {session['ray']}"
        yield "session", f"pid {session['pid']}, {versions}"
    yield "namespace", status["namespace"]
    if casting := _casting(status["casting"], status["transfers"]["active"]):
        yield "casting", casting
    if attempt := status["attempt"]:
        yield "attempt", _attempt_summary(attempt)
        if attempt["phases"]:
            yield "", _phases(attempt)
    daemon = status["daemon"]
    uptime = _seconds(daemon["uptime_s"])
    yield "daemon", f"castrayd {daemon['version']}, pid {daemon['pid']}, up {uptime}"


def _desired(status: Document) -> str:
    who = f" by {status['desired_by']}" if status["desired_by"] else ""
    why = f": {status['desired_reason']}" if status["desired_reason"] else ""
    return f"{style(status['desired'], 'yellow')}{who}{why}"


def _fault_rows(status: Document) -> Iterator[tuple[str, str]]:
    for fault in status["reasons"] or filter(None, [status["error"]]):
        yield (
            "why",
            f"{style(fault['type'], 'red', 'bold')} in {fault['phase']}: {fault['message']}",
        )
        yield "", f"→ {fault['hint']}"


def _tries(attempt: Document | None) -> str:
    if attempt is None:
        return ""
    return f", after {attempt['number']} tries" if attempt["number"] > 1 else ", after 1 try"


def _cluster_rows(cluster: Document | None) -> Iterator[tuple[str, str]]:
    if cluster is None:
        return
    dead = style(f", {cluster['nodes_dead']} dead", "yellow") if cluster["nodes_dead"] else ""
    cpus = f"{cluster['resources_total'].get('CPU', 0):g} CPU"
    yield "nodes", f"{cluster['nodes_alive']} alive{dead}, {cpus}"
    yield "cluster", f"{cluster['id'] or 'id unknown'}, Ray {cluster['ray_version']}"


def _casting(nodes: Document, transfers: int) -> str:
    """Say how this daemon's nodes stand, and what is sent; nothing where there is nothing."""
    said = []
    if wanted := nodes["desired"]:
        all_ready = nodes["ready"] == wanted
        count = f"{wanted} ready" if all_ready else f"{nodes['ready']} of {wanted} ready"
        said.append(count if all_ready else style(count, "yellow"))
    if transfers:
        said.append(f"{transfers} transfer{'s' * (transfers > 1)} under way")
    return ", ".join(said)


def _attempt_summary(attempt: Document) -> str:
    outcome = style(attempt["outcome"] or "under way", _OUTCOMES[attempt["outcome"]])
    why = f" {attempt['error']['type']}" if attempt["error"] else ""
    took = _seconds(attempt["duration_s"])
    return f"{attempt['id']} {outcome}{why} after {took} ({attempt['trigger']})"


def _phases(attempt: Document) -> str:
    """Show every phase with its milliseconds, and on a terminal as one cell of a small chart."""
    longest, failed = _longest(attempt), _failed_phase(attempt)
    parts = []
    for name, seconds in attempt["phases"].items():
        chart = cell(seconds / longest) + TIE if coloured() else ""
        text = f"{name}{TIE}{chart}{seconds * 1000:.1f}"
        parts.append(style(text, "red") if name == failed else style(text, "dim"))
    return "  ".join(parts) + (f"{TIE}ms" if parts else "")


def _longest(attempt: Document) -> float:
    return max(attempt["phases"].values(), default=0.0) or 1.0


def _failed_phase(attempt: Document) -> str | None:
    return attempt["error"]["phase"] if attempt["error"] else None


def attempts_lines(attempts: Sequence[Document]) -> Iterator[str]:
    """Show attempts as a table, newest first."""
    head = ("id", "n", "started", "trigger", "outcome", "took", "phases", "error")
    rows = [
        (
            attempt["id"],
            str(attempt["number"]),
            _moment(attempt["started_at"]),
            attempt["trigger"],
            style(attempt["outcome"] or "under way", _OUTCOMES[attempt["outcome"]]),
            _seconds(attempt["duration_s"]),
            _chart(attempt),
            attempt["error"]["type"] if attempt["error"] else "",
        )
        for attempt in attempts
    ]
    yield from table(head, rows)


def _chart(attempt: Document) -> str:
    """One cell a phase, its height its share of the longest; in a pipe names and seconds."""
    phases = attempt["phases"]
    if not coloured():
        return ",".join(f"{name}={seconds:.4f}" for name, seconds in phases.items())
    longest, failed = _longest(attempt), _failed_phase(attempt)
    cells = ((name, cell(seconds / longest)) for name, seconds in phases.items())
    return "".join(style(one, "red") if name == failed else one for name, one in cells)


def attempt_lines(attempt: Document) -> Iterator[str]:
    """Show one attempt, with the phases of each candidate as bars."""
    yield _attempt_summary(attempt)
    yield f"  started {_moment(attempt['started_at'])}, number {attempt['number']}"
    for tried in attempt["candidates"] or [attempt]:
        if tried["address"] is not None:
            yield f"  {style(tried['address'], 'bold')}  {tried['source']}"
        yield from _bars(tried)
        for name, value in (tried.get("seen") or {}).items():
            if value is not None:
                yield f"    {style(name.replace('_', ' '), 'dim')} {value}"
        if fault := tried["error"]:
            yield f"    {style(fault['type'], 'red', 'bold')}: {fault['message']}"
            yield f"    → {fault['hint']}"


def _bars(tried: Document) -> Iterator[str]:
    longest, failed = _longest(tried), _failed_phase(tried)
    for name, seconds in tried["phases"].items():
        mark = " failed" if name == failed else ""
        drawn = bar(seconds / longest, BAR_CELLS) if coloured() else ""
        shown = style(drawn + mark, "red" if mark else "green")
        yield f"    {name:<10} {seconds * 1000:>9.1f} ms  {shown}".rstrip()


def classes_lines(classes: Mapping[str, Document]) -> Iterable[str]:
    """Show every class of error in a line."""
    rows = [(name, known["retry"], known["meaning"]) for name, known in classes.items()]
    return table(("class", "retry", "meaning"), rows)


def class_lines(known: Document) -> Iterator[str]:
    """Show what one class of error means, where it appears and what to do."""
    yield style(known["type"], "bold")
    phases = "any" if len(known["phases"]) > _MOST_PHASES else ", ".join(known["phases"])
    retries = {"transient": "tried again by itself", "operator": "needs a person; tried seldom"}
    yield from aligned(
        [
            ("meaning", known["meaning"]),
            ("phases", phases),
            ("retry", f"{known['retry']}: {retries[known['retry']]}"),
            ("do", known["hint"]),
        ]
    )


_MOST_PHASES: Final = 5
"""A class that appears in more phases than this appears anywhere."""


def nodes_lines(nodes: Sequence[Document]) -> Iterator[str]:
    """Show the cluster's nodes as a table, the living first."""
    head = ("node", "state", "address", "hostname", "CPU", "memory", "casting", "")
    rows = [
        (
            node["node_id"][:ID_CHARS],
            style("alive", "green") if node["alive"] else style("dead", "red"),
            node["address"],
            node["hostname"],
            f"{node['resources'].get('CPU', 0):g}",
            f"{node['resources'].get('memory', 0) / 2**30:.1f} GiB",
            ", ".join(node["casting_nodes"]),
            "head" if node["head"] else node["death_reason"] or "",
        )
        for node in sorted(nodes, key=lambda n: (not n["alive"], n["hostname"], n["node_id"]))
    ]
    yield from table(head, rows)


def reload_lines(answer: Document) -> Iterator[str]:
    """Show what a reload did."""
    yield f"changed: {', '.join(answer['changed']) or 'nothing'}"
    if answer["reconnect"]:
        yield "a new session is being made"
    if answer["restart_required"]:
        yield f"needs a restart: {', '.join(answer['restart_required'])}"


def event_line(event: Document) -> str:
    """Show one event of the stream."""
    name = event["name"].removeprefix("castray.")
    match event["name"]:
        case "snapshot":
            state = event["status"]["state"]
            text = f"{style(state, _STATES[state])} (seq {event['seq']})"
        case "castray.state.changed":
            target = style(event["to"], _STATES[event["to"]])
            why = "".join(f" {f['type']}: {f['message']}" for f in event["reasons"][:1])
            text = f"{event['from']} -> {target} ({event['trigger']}){why}"
        case "castray.connection.attempt":
            text = _attempt_summary(event)
        case _:
            hidden = {"seq", "at", "name"}
            text = " ".join(f"{key}={value}" for key, value in event.items() if key not in hidden)
    return f"{style(_moment(event['at']), 'dim')} {style(name, 'bold')} {text}"


def _moment(at: str) -> str:
    return at[:19].replace("T", " ") + "Z"


def _seconds(seconds: float) -> str:
    """Show a duration in the unit that suits it; from a minute on the two largest."""
    if seconds < 0.99995:  # noqa: PLR2004  what would be rounded to a whole unit is the next one
        return f"{seconds * 1000:.1f} ms"
    if seconds < _MINUTE_S - 0.05:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:.0f} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} d {seconds % _DAY_S // _HOUR_S:.0f} h"


_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400
