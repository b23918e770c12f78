"""Manual pages of the commands, in man(7), written from the very objects that parse them."""

import re
from collections.abc import Iterator
from typing import Final

import click

import castrayd
from castrayd.cli import castrayctl
from castrayd.cli import castrayd as daemon

__all__ = ("pages",)

_FILES: Final = {
    "/etc/castrayd/castrayd.toml": "The settings, as --config of the unit names them.",
    "/etc/castrayd/environment": "Variables of the unit: RAY_ADDRESS, CASTRAYD_SECTION__KEY.",
    "/run/castrayd/control.sock": "The control socket.",
    "/var/lib/castrayd": "What lasts: the ledger, and uploads.",
}
_ENVIRONMENT: Final = {
    "RAY_ADDRESS": "The cluster, before what the settings say.",
    "CASTRAYD_CONFIG": "The settings file.",
    "CASTRAYD_SECTION__KEY": "Any one setting, before the file's.",
    "CASTRAYD_SOCKET": "The control socket.",
}


def pages() -> dict[str, str]:
    """Return the text of every page by its file's name."""
    return {
        "castrayd.8": _page("castrayd", 8, daemon.main, "castrayctl(1)"),
        "castrayctl.1": _page("castrayctl", 1, castrayctl.main, "castrayd(8)"),
    }


def _page(name: str, section: int, command: click.Command, also: str) -> str:
    context = click.Context(command, info_name=name)
    lines = [
        f'.TH {name.upper()} {section} "" "castrayd {castrayd.__version__}"',
        ".SH NAME",
        f"{name} \\- {_escaped(command.get_short_help_str(200).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        _usage(context),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
        ".SH OPTIONS",
        *_options(context),
        ".SH COMMANDS",
        *_commands(context),
        ".SH ENVIRONMENT",
        *_terms(_ENVIRONMENT),
        ".SH FILES",
        *_terms(_FILES),
        ".SH SEE ALSO",
        f"{_escaped(also)}, systemd(1), journalctl(1)",
    ]
    return "\n".join(lines) + "\n"


def _usage(context: click.Context) -> str:
    return _escaped(" ".join(context.command.collect_usage_pieces(context)))


def _commands(context: click.Context) -> Iterator[str]:
    """Tell of every command below, those of groups in their place."""
    group = context.command
    assert isinstance(group, click.Group)  # noqa: S101  called for groups alone
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None  # noqa: S101  it has just been listed
        if command.hidden:
            continue
        inner = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _commands(inner)
            continue
        yield f".SS {_escaped(inner.command_path)} {_usage(inner)}".rstrip()
        yield from _paragraphs(command.help or "")
        yield from _options(inner)


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and parameter.name != "help":
            yield ".TP"
            yield f".B {_escaped(record[0])}"
            yield _escaped(record[1])


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, meaning in terms.items():
        yield from (".TP", f".I {_escaped(term)}", _escaped(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.replace("\b", "").strip())):
        if number:
            yield ".PP"
        yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """Keep what man(7) would take for its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
