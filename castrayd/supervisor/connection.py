"""What an attempt is made with: addresses, policy and credentials, replaced whole by a reload."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from castrayd.core.candidates import AUTO, Address, Candidate, candidate, configured
from castrayd.core.policy import Deadlines, Policy
from castrayd.probe.credentials import Credentials, tls_of
from castrayd.probe.discovery import Discovery, discover
from castrayd.threads import READS

__all__ = ("NO_TOKEN", "Connection", "Token", "find_token")

TOKEN_BYTES: Final = 16 * 1024
"""More than any token: what is larger is some other file."""


@dataclass(frozen=True, slots=True)
class Token:
    """A Ray token, never shown, and what came of the search for it."""

    value: str | None = field(repr=False)
    source: str
    """Where it was found, and what preferred place could not be read."""
    path: str | None = field(default=None, compare=False)
    """The file that it was read from; None where it was in none."""


NO_TOKEN: Final = Token(None, "no token was looked for")


@dataclass(frozen=True, slots=True)
class Connection:
    """Everything that decides how this daemon attaches."""

    cli_address: str | None = None
    env_address: str | None = None
    config_addresses: tuple[str, ...] = ()
    namespace: str = "castray"
    discovery: Discovery = field(default_factory=Discovery)
    allow_local_start: bool = False
    """Where nothing is configured or found, or where `policy.fallback_after_s` says so."""
    local_working_dir: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    """The session's interpreter; None for our own."""
    token_file: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment that the daemon was started with; sessions inherit what is left of it."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    policy: Policy = field(default_factory=Policy)

    def candidates(self, requested: str | None) -> tuple[Candidate, ...]:
        """Return what is to be tried in order, before discovery; a request is tried alone."""
        if requested is not None:
            return (candidate(requested, "request"),)
        return configured(self.cli_address, self.env_address, self.config_addresses)

    def last_resort(self) -> tuple[Candidate, ...]:
        """Return `RAY_ADDRESS` where an argument was put before it; after discovery."""
        if self.cli_address in {None, AUTO}:
            return ()
        return configured(None, self.env_address, ())

    async def every(self) -> tuple[Candidate, ...]:
        """Return all that an attempt would try now, in order; a place named twice comes once."""
        found = await discover(self.discovery, self.deadlines.discover_s)
        unique: dict[Address | str, Candidate] = {}
        for one in (*self.candidates(None), *found, *self.last_resort()):
            unique.setdefault(one.address or one.text, one)
        return tuple(unique.values())

    def token(self) -> Token:
        """Look for the token anew, so that a rotated file is seen by the next attempt."""
        return find_token(self.token_file, self.environ)

    async def current_token(self) -> Token:
        """Do so beside the loop: a home may lie on a server that does not answer."""
        return await READS.run(self.token)

    def credentials(self, token: Token) -> Credentials:
        """Return what probes show. Raises `AttachError` (`tls_failure`) on bad TLS variables."""
        return Credentials(token.value, tls_of(self.environ), token.source)

    def fits(self, other: "Connection") -> bool:
        """Whether a session made with `other` serves under these settings as well."""
        return all(getattr(self, name) == getattr(other, name) for name in _SESSION)

    def aims(self, other: "Connection") -> bool:
        """Whether `other` would make another attempt of it."""
        if self.policy.fallback_after_s != other.policy.fallback_after_s:
            return True
        return any(getattr(self, name) != getattr(other, name) for name in (*_SESSION, *_AIM))

    def rank(self, attached: Candidate, every: Sequence[Candidate]) -> int | None:
        """Return how many of `every` are preferred to `attached`; None: it is one no more."""
        addresses = [one.address for one in every]
        if attached.address in addresses:
            return addresses.index(attached.address)
        wanted, silent = len(self.candidates(None)), {one.source for one in every if one.fault}
        fallback = self.policy.fallback_after_s is not None
        kept = {
            "request": not wanted,
            "local": self.allow_local_start and (fallback or not wanted),
        }
        cannot_tell = attached.source in silent
        return wanted if cannot_tell or kept.get(attached.source, False) else None


_SESSION: Final = ("namespace", "env_vars", "python", "token_file")
_AIM: Final = (
    "cli_address", "env_address", "config_addresses", "discovery", "allow_local_start", "deadlines"
)  # fmt: skip


def find_token(token_file: str | None, environ: Mapping[str, str]) -> Token:
    """Find the Ray token: our file, systemd's credential, Ray's variables, Ray's default file."""
    trouble = ""
    if token_file:
        value, why = _read(token_file)
        if value:
            return Token(value, "ray.token_file", token_file)
        trouble = f"; ray.token_file: {why}"
    for source, value, path in _elsewhere(environ):
        if value:
            return Token(value, source + trouble, path)
    return Token(None, "none was found" + trouble)


def _elsewhere(environ: Mapping[str, str]) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield where it may be, what is there, and the file of it."""
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        credential = f"{credentials}/ray-token"
        yield "credential:ray-token", _read(credential)[0], credential
    yield "env:RAY_AUTH_TOKEN", environ.get("RAY_AUTH_TOKEN", "").strip(), None
    if path := environ.get("RAY_AUTH_TOKEN_PATH"):
        yield "env:RAY_AUTH_TOKEN_PATH", _read(path)[0], path
    if home := environ.get("HOME"):
        default = f"{home}/.ray/auth_token"
        yield "file:~/.ray/auth_token", _read(default)[0], default


def _read(path: str) -> tuple[str | None, str]:
    """Read a token's file; returns the token, or None and why there is none."""
    try:
        with open(path, "rb", opener=_unblocking) as file:
            return file.read(TOKEN_BYTES).decode().strip() or None, "is empty"
    except OSError as error:
        return None, error.strerror or str(error)
    except ValueError:  # no UTF-8, or a NUL in the path
        return None, "is no text"


def _unblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
