"""What `install-units` puts on a host and takes away again: files, links, and a line for each.

Nothing of an administrator's own is ever overwritten or removed, but for a link that leads nowhere.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import click

__all__ = ("File", "Link", "run", "say")


@dataclass(frozen=True, slots=True)
class File:
    """One file to be there."""

    path: Path
    text: str
    ours: bool = True
    """False: an administrator's, once it is there."""

    def put(self, *, dry_run: bool) -> None:
        """Have it there as it is to be, unless it is somebody's own."""
        if self.path.is_symlink() or (self.path.exists() and not self.ours):
            say("kept", self.path)
        elif self.path.is_file() and self.path.read_bytes() == self.text.encode():
            say("same", self.path)
        elif dry_run:
            say("would write", self.path)
        else:
            _write(self.path, self.text)
            say("wrote", self.path)

    def remove(self, *, dry_run: bool) -> None:
        """Have it gone, unless it is somebody's own."""
        if self.path.is_symlink() or (self.path.exists() and not self.ours):
            say("kept", self.path)
        elif self.path.exists():
            _remove(self.path, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class Link:
    """One symbolic link to be there: ours while it leads where we had it lead."""

    path: Path
    target: Path

    def put(self, *, dry_run: bool) -> None:
        """Have it there, unless what is in its place leads anywhere else."""
        if self._is_there():
            say("same", self.path)
        elif self.path.exists():
            say("kept", f"{self.path} (not ours)")
        elif dry_run:
            say("would link", f"{self.path} -> {self.target}")
        else:
            _make_folders(self.path)
            self.path.unlink(missing_ok=True)  # one that leads nowhere
            self.path.symlink_to(self.target)
            say("linked", f"{self.path} -> {self.target}")

    def remove(self, *, dry_run: bool) -> None:
        """Have it gone, if it is ours."""
        if self._is_there():
            _remove(self.path, dry_run=dry_run)

    def _is_there(self) -> bool:
        return self.path.is_symlink() and self.path.readlink() == self.target


def _write(path: Path, text: str) -> None:
    """Write it whole or not at all, to be read by everybody whatever the umask."""
    _make_folders(path)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _make_folders(path: Path) -> None:
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)


def _remove(path: Path, *, dry_run: bool) -> None:
    if not dry_run:
        path.unlink()
        if path.parent.name == "castrayd" and not any(path.parent.iterdir()):
            path.parent.rmdir()  # a folder of ours alone
    say("would remove" if dry_run else "removed", path)


def say(did: str, what: object) -> None:
    """Tell one thing that was done, or is so."""
    click.echo(f"{did:12} {what}")


def run(*command: str, must: bool = True) -> None:
    """Run a command, and say so; one that must succeed ends ours where it does not."""
    say("ran", " ".join(command))
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    except OSError as error:
        raise click.ClickException(f"{command[0]}: {error.strerror}") from error
    if done.returncode and must:
        raise click.ClickException(f"{command[0]}: {done.stderr.strip()}")
