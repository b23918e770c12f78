"""`castrayd install-units`: the units that travel with the package, made fit for this host.

What is to be there is decided first, as files and links; then each is shown, and put there unless
it is only to be shown. The units lie where systemd has those of a local installation, so that
`systemctl edit --full` and `mask`, which write to /etc, are the administrator's as they should be.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

import castrayd
from castrayd.cli.account import USER, choose, must_execute, must_exist
from castrayd.cli.placing import File, Link, run, say

__all__ = ("COMMANDS",)

UNITS: Final = (
    "castrayd.service",
    "castrayd@.service",
    "castrayd-wait-online.service",
    "castrayd-online.target",
)
SYSTEM: Final = Path("/usr/local/lib/systemd/system")
BIN: Final = Path("/usr/local/bin")
"""On everybody's PATH."""


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
    try:
        if remove:
            _remove(for_user, prefix, dry_run)
        else:
            _install(for_user, run_as, prefix, dry_run)
    except OSError as error:
        if error.filename is None:
            raise  # `| head`: click knows what to do
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error


COMMANDS: Final = {"install-units": install_units}


def _install(for_user: bool, run_as: str | None, prefix: Path, dry_run: bool) -> None:  # noqa: FBT001
    live = prefix == Path("/")
    account = "" if for_user else run_as or (choose(SYSTEM / UNITS[0]) if live else USER)
    if live and account:
        must_exist(account)
        if not dry_run:
            _make_ready(account)
    for one in _placed(for_user, account, prefix):
        one.put(dry_run=dry_run)
    for path in _before_ours(for_user) if live else ():
        say("overridden", f"by {path}")
    if live and not dry_run:
        _after(account, for_user)


def _remove(for_user: bool, prefix: Path, dry_run: bool) -> None:  # noqa: FBT001
    live = prefix == Path("/") and not dry_run
    if live:
        for verb, *units in _ENDS:
            _systemctl(for_user, verb, *units, must=False)
    for one in _placed(for_user, USER, prefix):  # for whom it was: all that could be there
        one.remove(dry_run=dry_run)
    if live:
        _systemctl(for_user, "daemon-reload")
        _systemctl(for_user, "reset-failed", "castrayd*", must=False)
    for what in _remains():
        say("remains", what)


_ENDS: Final = (
    ("stop", "castrayd-online.target", "castrayd-wait-online.service", "castrayd.service",
     "castrayd@*.service"),
    ("disable", "castrayd.service", "castrayd@.service"),
)  # fmt: skip


def _remains() -> Iterator[object]:
    for folder in ("/etc", "/run", "/var/lib"):
        yield from sorted(Path(folder).glob("castrayd*"))
    yield "the user that it ran as"
    yield "casting nodes on the cluster, unless `castrayctl node purge --mine` came first"


def _placed(for_user: bool, account: str, prefix: Path) -> Iterator[File | Link]:  # noqa: FBT001
    """Yield what is to be there, below the prefix."""
    for one in _user_files() if for_user else _system_files(account):
        yield replace(one, path=prefix / one.path.relative_to("/"))


def _before_ours(for_user: bool) -> list[Path]:  # noqa: FBT001
    """Name what systemd takes in place of a unit of ours: an administrator's, or a mask."""
    base = Path.home() / ".config/systemd/user" if for_user else Path("/etc/systemd/system")
    return [base / name for name in UNITS if (base / name).exists()]


def _system_files(account: str) -> Iterator[File | Link]:
    for name in UNITS:
        text = _fitted(_shipped(name)).replace(f"User={USER}\n", f"User={account}\n")
        if account == "root" and name in UNITS[:2]:
            text = text.replace(*_SEES_ROOTS_RAYLET)
        yield File(SYSTEM / name, text)
    if account == USER:
        yield File(Path("/etc/sysusers.d/castrayd.conf"), _shipped("sysusers.conf"))
    yield File(Path("/etc/tmpfiles.d/castrayd.conf"), _shipped("tmpfiles.conf"))
    yield File(Path("/etc/castrayd/castrayd.toml"), _shipped("castrayd.toml"), ours=False)
    for name in EXAMPLES:
        yield File(Path("/usr/local/share/doc/castrayd") / name, _shipped(f"examples/{name}"))
    yield from _manuals(Path("/usr/local/share/man"))
    if _scripts() != BIN:
        yield from (Link(BIN / name, _scripts() / name) for name in COMMANDS_OF_OURS)


EXAMPLES: Final = ("local-start.conf", "notify-reload.conf", "ray-temp-dir.conf", "token.conf")
COMMANDS_OF_OURS: Final = ("castrayd", "castrayctl")
_SEES_ROOTS_RAYLET: Final = ("CapabilityBoundingSet=\n", "CapabilityBoundingSet=CAP_SYS_PTRACE\n")
"""What a process with every right runs is seen by one with this right alone, root or not."""


def _user_files() -> Iterator[File]:
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    yield File(data / "systemd/user/castrayd.service", _fitted(_shipped("user/castrayd.service")))
    yield File(config / "castrayd/castrayd.toml", _shipped("castrayd.toml"), ours=False)
    yield from _manuals(data / "man")


def _manuals(folder: Path) -> Iterator[File]:
    from castrayd.cli.manual import pages  # noqa: PLC0415  it loads every command there is

    for name, text in pages().items():
        yield File(folder / f"man{name[-1]}" / name, text)


def _shipped(name: str) -> str:
    return _place_of(name).read_text()


def _place_of(name: str) -> Path:
    """Find a file of ours: in the package, or beside it in a checkout."""
    package = Path(castrayd.__file__).parent
    places = [package / "systemd" / name, package.parent / "systemd" / name]
    return next(place for place in places if place.is_file())


def _fitted(unit: str) -> str:
    """Name the commands of this very installation, as systemd.service(5) has it written."""
    folder = str(_scripts()).replace("%", "%%")
    quote = '"' if " " in folder else ""
    for name in COMMANDS_OF_OURS:
        unit = unit.replace(f"/usr/bin/{name} ", f"{quote}{folder}/{name}{quote} ")
    return unit


def _scripts() -> Path:
    """Find the folder of our commands: that of this one, else the interpreter's."""
    command = Path(sys.argv[0]).absolute()
    while command.is_symlink():  # such as ours on everybody's PATH
        command = command.parent / command.readlink()
    places = [command.parent, Path(sysconfig.get_path("scripts"))]
    for place in places:
        if all(os.access(place / name, os.X_OK) for name in COMMANDS_OF_OURS):
            return place
    raise click.ClickException(f"no castrayd and castrayctl in {places[0]} or {places[1]}")


def _make_ready(account: str) -> None:
    """Have the user there, and able to start what the units will name."""
    if account == USER:
        run("systemd-sysusers", str(_place_of("sysusers.conf")))
    must_execute(account, _scripts() / "castrayd")


def _after(account: str, for_user: bool) -> None:  # noqa: FBT001
    """Tell systemd, and say what comes next."""
    _systemctl(for_user, "daemon-reload")
    running = " ".join(_running(for_user))
    verb = f"restart {running}" if running else "enable --now castrayd"
    scope = " --user" if for_user else ""
    who = f" (as user {account})" if account else ""
    click.echo(f"next: systemctl{scope} {verb}{who}")


def _running(for_user: bool) -> Iterable[str]:  # noqa: FBT001
    """Name the services of ours that run: as they were installed before."""
    if not _SYSTEMD.is_dir():
        return []
    command = ["systemctl", *_scope(for_user), "list-units", "--plain", "--no-legend", _RUNS]
    command += ["castrayd.service", "castrayd@*.service"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout  # noqa: S603
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


_RUNS: Final = "--state=active,activating,reloading"
_SYSTEMD: Final = Path("/run/systemd/system")
"""There while systemd runs."""


def _systemctl(for_user: bool, *words: str, must: bool = True) -> None:  # noqa: FBT001
    if _SYSTEMD.is_dir():
        run("systemctl", *_scope(for_user), *words, must=must)


def _scope(for_user: bool) -> list[str]:  # noqa: FBT001
    return ["--user"] if for_user else []
