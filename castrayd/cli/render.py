"""How castrayctl shows documents: aligned tables, colour on a terminal, plain text in a pipe."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ("attempt_lines", "attempts_lines", "event_line", "nodes_lines", "status_lines", "style")

_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
_STATES: Final = {
    "connected": "green", "degraded": "yellow", "discovering": "blue", "disconnected": "red"
}  # fmt: skip
_OUTCOMES: Final = {"success": "green", "failure": "red", "cancelled": "yellow", None: "blue"}
BAR_CELLS: Final = 24
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def style(text: str, *names: str) -> str:
    """Colour `text` when standard output is a terminal."""
    if not sys.stdout.isatty():
        return text
    codes = ";".join(_CODES[name] for name in names)
    return f"\x1b[{codes}m{text}\x1b[0m"


def status_lines(status: dict[str, Any]) -> Iterable[str]:
    """Show the whole truth in one look."""
    state = status["state"]
    wish = "" if status["desired"] == "up" else f" ({status['desired']}{_by(status)})"
    yield f"{style(state, _STATES[state], 'bold')}{wish} since {_moment(status['since'])}"
    rows: list[tuple[str, str]] = []
    if address := status["address"]:
        rows.append(("address", f"{address['url']}  ({address['source']}, {address['mode']})"))
    rows.append(("namespace", status["namespace"]))
    rows += _fault_rows(status)
    if status["next_retry_in_s"] is not None:
        attempt = status["attempt"]
        count = f", after {attempt['number']} attempts" if attempt else ""
        rows.append(("next try", f"in {_seconds(status['next_retry_in_s'])}{count}"))
    rows += _session_rows(status)
    if attempt := status["attempt"]:
        rows.append(("attempt", _attempt_summary(attempt)))
    yield from _aligned(rows)
    for warning in status["warnings"]:
        yield style(f"  ! {warning['message']}", "yellow")
        yield f"    {warning['hint']}"


def _by(status: dict[str, Any]) -> str:
    why = f": {status['desired_reason']}" if status["desired_reason"] else ""
    return f" by {status['desired_by']}{why}" if status["desired_by"] else why


def _fault_rows(status: dict[str, Any]) -> Iterable[tuple[str, str]]:
    faults = status["reasons"] or ([status["error"]] if status["error"] else [])
    for fault in faults:
        head = style(fault["type"], "red", "bold")
        yield "why", f"{head} in {fault['phase']}: {fault['message']}"
        yield "", style(f"→ {fault['hint']}", "dim")


def _session_rows(status: dict[str, Any]) -> Iterable[tuple[str, str]]:
    session, cluster = status["session"], status["cluster"]
    if session:
        yield "session", f"pid {session['pid']}, Python {session['python']}, Ray {session['ray']}"
    if cluster:
        cpus = cluster["resources_total"].get("CPU", 0)
        yield "cluster", f"{cluster['id'] or 'id unknown'}"
        dead = (
            f", {style(str(cluster['nodes_dead']) + ' dead', 'yellow')}"
            if cluster["nodes_dead"]
            else ""
        )
        yield "nodes", f"{cluster['nodes_alive']} alive{dead}, {cpus:g} CPUs"


def _attempt_summary(attempt: dict[str, Any]) -> str:
    outcome = attempt["outcome"] or "under way"
    return f"{attempt['id']} {outcome} in {_seconds(attempt['duration_s'])} ({attempt['trigger']})"


def attempts_lines(attempts: Sequence[dict[str, Any]]) -> Iterable[str]:
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
            _small_bar(attempt),
            attempt["error"]["type"] if attempt["error"] else "",
        )
        for attempt in attempts
    ]
    yield from _table(head, rows)


def _small_bar(attempt: dict[str, Any]) -> str:
    """One cell a phase, its height its share of the time."""
    if not sys.stdout.isatty():
        return ",".join(f"{name}={seconds:.4f}" for name, seconds in attempt["phases"].items())
    failed = attempt["error"]["phase"] if attempt["error"] else None
    longest = max(attempt["phases"].values(), default=0) or 1
    heights = "▁▂▃▄▅▆▇█"
    cells = []
    for name, seconds in attempt["phases"].items():
        cell = heights[min(7, int(seconds / longest * 7.99))]
        cells.append(style(cell, "red") if name == failed else cell)
    return "".join(cells)


def attempt_lines(attempt: dict[str, Any]) -> Iterable[str]:
    """Show one attempt with its phases as bars."""
    yield _attempt_summary(attempt)
    for tried in attempt["candidates"] or [attempt]:
        if "address" in tried:
            yield f"  {style(tried['address'], 'bold')}  ({tried['source']})"
        longest = max(tried["phases"].values(), default=0) or 1
        failed = tried["error"]["phase"] if tried["error"] else None
        for name, seconds in tried["phases"].items():
            bar = _bar(seconds / longest)
            colour = "red" if name == failed else "green"
            yield f"    {name:<10} {seconds * 1000:>9.1f} ms  {style(bar, colour)}"
        if fault := tried["error"]:
            yield f"    {style(fault['type'], 'red', 'bold')}: {fault['message']}"
            yield style(f"    → {fault['hint']}", "dim")


def _bar(share: float) -> str:
    eighths = max(1, round(share * BAR_CELLS * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def nodes_lines(nodes: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Show the cluster's nodes as a table, the living first."""
    head = ("node", "state", "address", "hostname", "CPU", "memory", "")
    rows = [
        (
            node["node_id"][:12],
            style("alive", "green") if node["alive"] else style("dead", "red"),
            node["address"],
            node["hostname"],
            f"{node['resources'].get('CPU', 0):g}",
            f"{node['resources'].get('memory', 0) / 2**30:.1f} GiB",
            "head" if node["head"] else "",
        )
        for node in sorted(nodes, key=lambda n: (not n["alive"], n["hostname"], n["node_id"]))
    ]
    yield from _table(head, rows)


def event_line(event: dict[str, Any]) -> str:
    """Show one event of the stream."""
    name = event["name"].removeprefix("castray.")
    match event["name"]:
        case "snapshot":
            return style(f"-- {event['status']['state']} (seq {event['seq']})", "dim")
        case "castray.state.changed":
            target = style(event["to"], _STATES[event["to"]])
            text = f"{event['from']} -> {target} ({event['trigger']})"
            text += "".join(
                f" {fault['type']}: {fault['message']}" for fault in event["reasons"][:1]
            )
        case "castray.connection.attempt":
            text = _attempt_summary(event)
            text += f" {event['error']['type']}" if event["error"] else ""
        case _:
            hidden = {"seq", "at", "name"}
            text = " ".join(f"{k}={v}" for k, v in event.items() if k not in hidden)
    return f"{_moment(event['at'])} {style(name, 'bold')} {text}"


def _aligned(rows: Sequence[tuple[str, str]]) -> Iterable[str]:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        yield f"  {style(name.ljust(width), 'dim')}  {text}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(_width, column)) for column in zip(head, *rows, strict=True)]
    yield style("  ".join(map(_padded, head, widths)).rstrip(), "dim")
    for row in rows:
        yield "  ".join(map(_padded, row, widths)).rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Count what is seen: escape sequences take no room."""
    shown = 0
    inside = False
    for character in text:
        inside = inside or character == "\x1b"
        shown += not inside
        inside = inside and character != "m"
    return shown


def _moment(at: str) -> str:
    return at[:19].replace("T", " ") + "Z"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004
