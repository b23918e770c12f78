"""The README's generated parts: `python -m tests.support.readme` writes them."""

import re
from pathlib import Path

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


def renewed(text: str) -> str:
    """Return the README with its generated parts made anew."""
    parts = {
        "diagram": f"```mermaid\n{diagram()}\n```",
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
