"""The README's generated parts: `python -m tests.support.readme` writes them."""

import re
from pathlib import Path
from typing import Any

from castrayd.cli.render import status_lines
from castrayd.core.machine import diagram
from castrayd.errors import ERROR_CLASSES
from castrayd.settings import table

__all__ = ("README", "command", "renewed")

README = Path(__file__).parents[2] / "README.md"


def _errors() -> str:
    rows = ["| class | phases | retry | meaning | what to do |", "|---|---|---|---|---|"]
    for kind, known in ERROR_CLASSES.items():
        everywhere = len(known.phases) > 5
        phases = "any" if everywhere else ", ".join(f"`{phase}`" for phase in known.phases)
        rows.append(f"| `{kind}` | {phases} | {known.retry} | {known.meaning} | {known.hint} |")
    return "\n".join(rows)


_STATUS: dict[str, Any] = {
    "daemon": {"version": "0.1.0", "pid": 5460, "uptime_s": 4242.0},
    "state": "connected",
    "since": "2026-11-23T18:14:39Z",
    "state_s": 4241.0,
    "desired": "up",
    "error": None,
    "reasons": [],
    "address": {"url": "10.30.2.11:6379", "source": "env:RAY_ADDRESS", "mode": "driver"},
    "namespace": "castray",
    "session": {"pid": 5479, "python": "3.11.7", "ray": "2.60.0"},
    "cluster": {
        "id": "c29d329410457ea3e4b9b2e651617e22cbee8125ac57551a7ac1d813",
        "ray_version": "2.60.0",
        "dashboard_url": None,
        "nodes_alive": 23,
        "nodes_dead": 0,
        "resources_total": {"CPU": 46.0},
    },
    "attempt": {
        "id": "f73553f1-1",
        "number": 1,
        "trigger": "start",
        "outcome": "success",
        "duration_s": 0.612,
        "phases": {
            "resolve": 0.0004, "tcp": 0.0003, "health": 0.0021, "identity": 0.0008,
            "local_node": 0.0018, "spawn": 0.405, "init": 0.192, "nodes": 0.009,
        },
        "error": None,
    },
    "next_retry_in_s": None,
    "warnings": [],
    "casting": {"desired": 2, "ready": 2},
    "transfers": {"active": 1},
}  # fmt: skip


def _status() -> str:
    return "\n".join(["```", "$ castrayctl status", *status_lines(_STATUS), "```"])


def renewed(text: str) -> str:
    """Return the README with its generated parts made anew."""
    parts = {
        "diagram": f"```mermaid\n{diagram()}\n```",
        "status": _status(),
        "settings": table(),
        "errors": _errors(),
    }
    for name, part in parts.items():
        head, rest = text.split(f"<!-- generated: {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        text = f"{head}<!-- generated: {name} -->\n{part}\n{end}{tail}"
    return text


def command(name: str) -> str:
    """Return the README's command of that name."""
    found = re.search(rf"^<!-- {name}-command --> `(.*)`$", README.read_text(), re.MULTILINE)
    assert found is not None, name
    return found[1]


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
