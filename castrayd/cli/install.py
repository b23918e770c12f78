"""`castrayd install-units`: the units that travel with the package, made fit for this host.

What is to be done is decided first, as a list of files; then it is shown, and done unless it is
only to be shown. Nothing of an administrator's own is ever overwritten: settings are written where
there are none, units where they differ.
"""

import os
import pwd
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

import castrayd

__all__ = ("COMMANDS",)

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
    live = prefix == Path("/")
    if remove:
        account = USER  # for whomever it was, every file that could be there is then named
    elif for_user:
        account = ""
    else:
        account = run_as or _account(look=live)
    if account and live and not dry_run:
        _must_exist(account)
    files = [*(_user_files() if for_user else _system_files(account))]
    files = [_File(prefix / one.path.relative_to("/"), one.text, one.ours) for one in files]
    if remove:
        _remove(files, live and not dry_run, dry_run, for_user)
        return
    for one in files:
        _put(one, dry_run)
    if live and not dry_run:
        _after(account, for_user)


COMMANDS: Final = {"install-units": install_units}


def _account(*, look: bool) -> str:
    """Choose the service's user: as it is installed, whose raylet runs here, one of its own."""
    if not look:
        return USER
    installed = SYSTEM / UNITS[0]
    if installed.is_file():
        for line in installed.read_text().splitlines():
            if line.startswith("User="):
                return line.removeprefix("User=")
    return _owner_of_raylet() or USER


SYSTEM: Final = Path("/etc/systemd/system")


def _system_files(account: str) -> Iterator[_File]:
    for name in UNITS:
        text = _fitted(_shipped(name)).replace(f"User={USER}\n", f"User={account}\n")
        if account == "root":
            text = text.replace(*_SEES_ROOTS_RAYLET)
        yield _File(SYSTEM / name, text)
    if account == USER:
        yield _File(Path("/etc/sysusers.d/castrayd.conf"), _shipped("sysusers.conf"))
    yield _File(Path("/etc/tmpfiles.d/castrayd.conf"), _shipped("tmpfiles.conf"))
    yield _File(Path("/etc/castrayd/castrayd.toml"), _shipped("castrayd.toml"), ours=False)
    for name in EXAMPLES:
        yield _File(Path("/usr/local/share/doc/castrayd") / name, _shipped(f"examples/{name}"))
    yield from _manuals(Path("/usr/local/share/man"))


EXAMPLES: Final = ("local-start.conf", "notify-reload.conf", "ray-temp-dir.conf", "token.conf")
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
    return unit.replace("/usr/bin/castray", f"{_scripts()}/castray")


def _scripts() -> Path:
    """Find the folder of our commands: that of this one, else the interpreter's."""
    places = [Path(sys.argv[0]).absolute().parent, Path(sysconfig.get_path("scripts"))]
    for place in places:
        if all(os.access(place / name, os.X_OK) for name in ("castrayd", "castrayctl")):
            return place
    raise click.ClickException(f"no castrayd and castrayctl in {places[0]} or {places[1]}")


def _owner_of_raylet() -> str | None:
    """Name the one user whose raylets run here; None when there are none.

    Only one that listens on its socket counts: any process may call itself a raylet.
    """
    from castrayd.probe.local_node import raylets, try_socket  # noqa: PLC0415

    owners = {raylet.uid: raylet.pid for raylet in raylets() if try_socket(raylet) is None}
    if not owners:
        return None
    try:
        ((uid, pid),) = owners.items()
        name = pwd.getpwuid(uid).pw_name
    except (ValueError, KeyError):
        whose = ", ".join(f"uid {uid}: pid {pid}" for uid, pid in owners.items())
        raise click.UsageError(f"say whose raylet with --run-as ({whose})") from None
    _say("found", f"raylet {pid} of user {name}")
    return name


def _must_exist(account: str) -> None:
    if account == USER:
        return  # systemd-sysusers makes it
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise click.BadParameter(f"no user {account!r} here", param_hint="'--run-as'") from None


def _put(one: _File, dry_run: bool) -> None:  # noqa: FBT001
    there = one.path.read_text() if one.path.is_file() else None
    if one.path.is_symlink():
        _say("kept", f"{one.path} (a link: masked, or somebody's own)")
    elif there is not None and not one.ours:
        _say("kept", one.path)
    elif there == one.text:
        _say("same", one.path)
    elif dry_run:
        _say("would write", one.path)
    else:
        _write(one.path, one.text)
        _say("wrote", one.path)


def _write(path: Path, text: str) -> None:
    """Write it whole or not at all, to be read by everybody whatever the umask."""
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _say(did: str, what: object) -> None:
    click.echo(f"{did:12} {what}")


def _remove(files: list[_File], live: bool, dry_run: bool, for_user: bool) -> None:  # noqa: FBT001
    if live:
        for verb, *units in _ENDS:
            _systemctl(for_user, verb, *units, must=False)
    for one in files:
        if not one.path.exists():
            continue
        if one.ours and not dry_run:
            one.path.unlink()
        _say(("would remove" if dry_run else "removed") if one.ours else "kept", one.path)
    if live:
        _systemctl(for_user, "daemon-reload")


_ENDS: Final = (
    ("stop", "castrayd-online.target", "castrayd-wait-online.service", "castrayd.service",
     "castrayd@*.service"),
    ("disable", "castrayd.service", "castrayd@.service"),
)  # fmt: skip


def _after(account: str, for_user: bool) -> None:  # noqa: FBT001
    """Tell systemd, and say what comes next."""
    if account == USER:
        _run("systemd-sysusers", "castrayd.conf")
    _systemctl(for_user, "daemon-reload")
    scope = " --user" if for_user else ""
    who = f" (as user {account})" if account else ""
    click.echo(f"next: systemctl{scope} enable --now castrayd{who}")


def _systemctl(for_user: bool, *words: str, must: bool = True) -> None:  # noqa: FBT001
    if Path("/run/systemd/system").is_dir():
        _run("systemctl", *(["--user"] if for_user else []), *words, must=must)


def _run(*command: str, must: bool = True) -> None:
    _say("ran", " ".join(command))
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode and must:
        raise click.ClickException(f"{command[0]}: {done.stderr.strip()}")
