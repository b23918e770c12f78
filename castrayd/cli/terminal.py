"""Text for a terminal and for a pipe: colour, tables, bars, and nothing that could move a cursor.

`render` and `castrayctl` alone use it. It prints nothing itself, and imports nothing that click
has not imported already: castrayctl must start quickly.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

__all__ = ("TIE", "aligned", "bar", "cell", "clean", "coloured", "style", "table", "width")

_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_HEIGHTS: Final = "▁▂▃▄▅▆▇█"
_LEAST_COLUMNS: Final = 40

TIE: Final = "\N{NO-BREAK SPACE}"
"""In a text of `aligned`: a space where no line may be broken."""

_CONTROLS: Final[Mapping[int, str]] = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "�"),
    **dict.fromkeys(map(ord, "\t\n\r"), " "),
}


@cache
def coloured() -> bool:
    """Whether standard output is a terminal that wants colour; https://no-color.org."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def style(text: str, *names: str) -> str:
    """Colour `text` where colour is wanted."""
    if not coloured() or not text:
        return text
    return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


def clean(document: Any) -> Any:  # noqa: ANN401  JSON
    """Take control characters out of every text: what Ray or a stranger says may hold some."""
    if isinstance(document, str):
        return document.translate(_CONTROLS)
    if isinstance(document, list):
        return [clean(item) for item in document]
    if isinstance(document, dict):
        return {clean(key): clean(value) for key, value in document.items()}
    return document


def bar(share: float, cells: int) -> str:
    """Draw a share of `cells` in eighths of a cell; what is there is seen, however small."""
    full, rest = divmod(max(1, round(min(share, 1.0) * cells * 8)), 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def cell(share: float) -> str:
    """Draw a share as the height of one cell."""
    return _HEIGHTS[min(len(_HEIGHTS) - 1, int(share * len(_HEIGHTS)))]


def width(text: str) -> int:
    """Count the columns that are seen: escape sequences take none."""
    shown, inside = 0, False
    for character in text:
        inside = inside or character == "\x1b"
        shown += not inside
        inside = inside and character != "m"
    return shown


def aligned(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Put names into one column and texts into another; on a terminal texts wrap in theirs."""
    rows = list(rows)
    names = max((len(name) for name, _ in rows), default=0)
    room = _columns() - names - 4
    for name, text in rows:
        first, *more = _wrapped(text, room)
        shown = style(name, "dim") + " " * (names - len(name))
        yield f"  {shown}  {first}".rstrip()
        yield from (" " * (names + 4) + line for line in more)


def _columns() -> int:
    """Return how wide lines may be; a pipe's are never broken, so that they can be searched."""
    if not sys.stdout.isatty():
        return sys.maxsize
    try:
        return max(_LEAST_COLUMNS, os.get_terminal_size(sys.stdout.fileno()).columns)
    except OSError:
        return 80


def _wrapped(text: str, room: int) -> list[str]:
    """Break a text at its spaces; a word that is too long stays whole, `TIE` becomes a space."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and width(line) + 1 + width(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [one.replace(TIE, " ") for one in (*lines, line)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Align rows below their heads."""
    widths = [max(map(width, column)) for column in zip(head, *rows, strict=True)]
    yield style(_row(head, widths), "dim")
    yield from (_row(row, widths) for row in rows)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (text + " " * (room - width(text)) for text, room in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()
