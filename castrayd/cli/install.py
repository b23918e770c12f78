"""`castrayd install-units`: the units that travel with the package, made fit for this host.

What is to be done is decided first, as a list of files; then it is shown, and done unless it is
only to be shown. Nothing of an administrator's own is ever overwritten: settings are written where
there are none, units where they differ.
"""

import os
import pwd
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

import castrayd

__all__ = ("install_units",)

USER: Final = "castrayd"
"""Whom the shipped units name; made where no raylet tells of another."""
UNITS: Final = (
    "castrayd.service",
    "castrayd@.service",
    "castrayd-wait-online.service",
    "castrayd-online.target",
)


@dataclass(frozen=True, slots=True)
class _File:
    """One file to be there."""

    path: Path
    text: str
    ours: bool = True
    """False: an administrator's, once it is there."""


@click.command("install-units")
@click.option("--user", "for_user", is_flag=True, help="For the user's own systemd.")
@click.option("--run-as", metavar="USER", help="Default: the owner of a raylet on this host.")
@click.option(
    "--prefix",
    type=click.Path(path_type=Path),
    default=Path("/"),
    help="Write below this folder, and tell systemd nothing.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done.")
@click.option("--remove", is_flag=True, help="Take away what was installed, but no settings.")
def install_units(
    *, for_user: bool, run_as: str | None, prefix: Path, dry_run: bool, remove: bool
) -> None:
    """Install the systemd units of this very installation; again is as good as once."""
    if for_user and run_as:
        raise click.UsageError("--user is that user's own: it takes no --run-as")
    if not (for_user or dry_run or prefix != Path("/") or os.geteuid() == 0):
        raise click.UsageError("needs root; or --user, for the user's own systemd")
    account = "" if for_user else run_as or _owner_of_raylet() or USER
    if account and prefix == Path("/") and not dry_run and not remove:
        _must_exist(account)
    files = [*(_user_files() if for_user else _system_files(account))]
    files = [_File(prefix / one.path.relative_to("/"), one.text, one.ours) for one in files]
    live = prefix == Path("/") and not dry_run
    if remove:
        _remove(files, live, dry_run, for_user)
        return
    for one in files:
        _put(one, dry_run)
    if live:
        _after(account, for_user)


def _system_files(account: str) -> Iterator[_File]:
    for name in UNITS:
        text = _fitted(_shipped(name)).replace(f"User={USER}\n", f"User={account}\n")
        if account == "root":
            text = text.replace(*_SEES_ROOTS_RAYLET)
        yield _File(Path("/etc/systemd/system") / name, text)
    if account == USER:
        yield _File(Path("/etc/sysusers.d/castrayd.conf"), _shipped("sysusers.conf"))
    yield _File(Path("/etc/tmpfiles.d/castrayd.conf"), _shipped("tmpfiles.conf"))
    yield _File(Path("/etc/castrayd/castrayd.toml"), _shipped("castrayd.toml"), ours=False)
    yield from _manuals(Path("/usr/local/share/man"))


_SEES_ROOTS_RAYLET: Final = ("CapabilityBoundingSet=\n", "CapabilityBoundingSet=CAP_SYS_PTRACE\n")
"""What a process with every right runs is seen by one with this right alone, root or not."""


def _user_files() -> Iterator[_File]:
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    text = _fitted(_shipped("user/castrayd.service"))
    yield _File(config / "systemd/user/castrayd.service", text)
    yield _File(config / "castrayd/castrayd.toml", _shipped("castrayd.toml"), ours=False)
    yield from _manuals(data / "man")


def _manuals(folder: Path) -> Iterator[_File]:
    from castrayd.cli.manual import pages  # noqa: PLC0415  it loads every command there is

    for name, text in pages().items():
        yield _File(folder / f"man{name[-1]}" / name, text)


def _shipped(name: str) -> str:
    """Read a file of ours: in the package, or beside it in a checkout."""
    package = Path(castrayd.__file__).parent
    places = [package / "systemd" / name, package.parent / "systemd" / name]
    return next(place for place in places if place.is_file()).read_text()


def _fitted(unit: str) -> str:
    """Name the commands of this very installation."""
    scripts = sysconfig.get_path("scripts")
    return unit.replace("/usr/bin/castray", f"{scripts}/castray")


def _owner_of_raylet() -> str | None:
    """Name the one user whose raylets run here; None when there are none."""
    from castrayd.probe.local_node import raylets  # noqa: PLC0415

    owners = {raylet.uid for raylet in raylets()}
    if len(owners) > 1:
        raise click.UsageError("raylets of several users run here: say whose with --run-as")
    return pwd.getpwuid(owners.pop()).pw_name if owners else None


def _must_exist(account: str) -> None:
    if account == USER:
        return  # systemd-sysusers makes it
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise click.BadParameter(f"no user {account!r} here", param_hint="'--run-as'") from None


def _put(one: _File, dry_run: bool) -> None:  # noqa: FBT001
    there = one.path.read_text() if one.path.exists() else None
    if there is not None and not one.ours:
        _say("kept", one.path)
    elif there == one.text:
        _say("same", one.path)
    elif dry_run:
        _say("would write", one.path)
    else:
        one.path.parent.mkdir(parents=True, exist_ok=True)
        one.path.write_text(one.text)
        _say("wrote", one.path)


def _say(did: str, what: object) -> None:
    click.echo(f"{did:12} {what}")


def _remove(files: list[_File], live: bool, dry_run: bool, for_user: bool) -> None:  # noqa: FBT001
    if live:
        _systemctl(for_user, "disable", "--now", "castrayd.service")
    for one in files:
        if not one.path.exists():
            continue
        if one.ours and not dry_run:
            one.path.unlink()
        _say(("would remove" if dry_run else "removed") if one.ours else "kept", one.path)
    if live:
        _systemctl(for_user, "daemon-reload")


def _after(account: str, for_user: bool) -> None:  # noqa: FBT001
    """Tell systemd, and say what comes next."""
    if account == USER:
        _run("systemd-sysusers", "castrayd.conf")
    _systemctl(for_user, "daemon-reload")
    scope = " --user" if for_user else ""
    who = f" (as user {account})" if account else ""
    click.echo(f"next: systemctl{scope} enable --now castrayd{who}")


def _systemctl(for_user: bool, *words: str) -> None:  # noqa: FBT001
    if Path("/run/systemd/system").is_dir():
        _run("systemctl", *(["--user"] if for_user else []), *words)


def _run(*command: str) -> None:
    _say("ran", " ".join(command))
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise click.ClickException(f"{command[0]}: {done.stderr.strip()}")
