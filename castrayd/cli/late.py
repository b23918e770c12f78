"""A group of commands of which some are loaded when one of them is meant: the others stay quick."""

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

__all__ = ("LateGroup",)


class LateGroup(click.Group):
    """Finds what it has not been given in `LATE`."""

    LATE: ClassVar[Mapping[str, str]] = {}
    """By command, the module of this package that has it in its `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all, by which they are found."""
        return sorted((*super().list_commands(ctx), *self.LATE))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one, loading it where it is late; None where there is none."""
        if cmd_name not in self.LATE:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"castrayd.cli.{self.LATE[cmd_name]}")
        command: click.Command = module.COMMANDS[cmd_name]
        return command
