"""Whom `install-units` has the service run as: the raylet's user, who alone may use Ray here.

That user gets what the service has, the cluster's token too. Any process may call itself a raylet,
so one is asked for its user only where root alone can have made it one.
"""

import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from castrayd.cli.placing import say

if TYPE_CHECKING:
    from castrayd.probe.local_node import Raylet

__all__ = ("USER", "choose", "must_execute", "must_exist")

USER: Final = "castrayd"
"""Whom the shipped units name; made where no raylet tells of another."""


def choose(installed: Path) -> str:
    """Choose the service's user: as it is installed, whose raylet runs here, one of its own."""
    if installed.is_file():
        for line in installed.read_text().splitlines():
            if line.startswith("User="):
                return line.removeprefix("User=")
    return _owner_of_raylet() or USER


def _owner_of_raylet() -> str | None:
    """Name the one user whose raylets run here, if root vouches for it; None without raylets.

    Only one that listens on its socket counts.
    """
    from castrayd.probe.local_node import raylets, try_socket  # noqa: PLC0415

    found = [raylet for raylet in raylets() if try_socket(raylet) is None]
    if not found:
        say("found", f"no raylet: for user {USER}; for another's with --run-as USER")
        return None
    names = {_name(raylet.uid) for raylet in found}
    if len(names) > 1 or not all(_is_vouched_for(raylet.pid) for raylet in found):
        raise click.UsageError(f"say with --run-as USER whose raylet it is: {_told(found)}")
    (name,) = names
    say("found", f"raylet {found[0].pid} of user {name}")
    return name


def _is_vouched_for(pid: int) -> bool:
    """Whether the process runs a program that root alone could put there.

    Looked at where its name says that it is, too: in a mount namespace of one's own anybody may
    give a program of root's the name of another.
    """
    link = f"/proc/{pid}/exe"
    try:
        program, there = os.stat(link), os.lstat(os.readlink(link))  # noqa: PTH115, PTH116
    except OSError:
        return False
    others_write = program.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return program.st_uid == 0 and not others_write and os.path.samestat(program, there)


def _told(found: list["Raylet"]) -> str:
    return ", ".join(f"{_program(one.pid)} (pid {one.pid}) of {_name(one.uid)}" for one in found)


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115  the kernel's word, not a path of ours
    except OSError:
        return "one"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def must_exist(account: str) -> None:
    """Refuse a user that is not there; ours is made when it is needed."""
    if account == USER:
        return
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise click.BadParameter(f"no user {account!r} here", param_hint="'--run-as'") from None


def must_execute(account: str, command: Path) -> None:
    """Refuse a place where the user may not go: systemd would fail there again and again."""
    user = pwd.getpwnam(account)
    try:
        code = subprocess.run(  # noqa: S603  as that user, with nothing of ours
            [command, "--version"], user=user.pw_uid, group=user.pw_gid, cwd="/",
            extra_groups=os.getgrouplist(account, user.pw_gid), env={"PATH": os.defpath},
            capture_output=True, check=False,
        ).returncode  # fmt: skip
    except OSError:
        code = 1
    if code:
        where = "install it where that user may read it, such as /opt"
        raise click.ClickException(f"{command} is not executable by {account}: {where}")
