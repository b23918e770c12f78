"""What an attempt is made with: addresses, policy and credentials, replaced whole by a reload."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio.to_thread

from castrayd.core.candidates import AUTO, Address, Candidate, candidate, configured
from castrayd.core.policy import Deadlines, Policy
from castrayd.probe.credentials import Credentials, tls_of
from castrayd.probe.discovery import Discovery, discover

__all__ = ("Connection", "Token", "find_token")

TOKEN_BYTES: Final = 16 * 1024
"""More than any token: what is larger is some other file."""


@dataclass(frozen=True, slots=True)
class Token:
    """A Ray token and where it was found; never shown."""

    value: str = field(repr=False)
    source: str


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
        unique: dict[Address, Candidate] = {}
        for one in (*self.candidates(None), *found, *self.last_resort()):
            if one.address is not None:
                unique.setdefault(one.address, one)
        return tuple(unique.values())

    def token(self) -> Token | None:
        """Look for the token anew, so that a rotated file is seen by the next attempt."""
        return find_token(self.token_file, self.environ)

    async def current_token(self) -> Token | None:
        """Do so beside the loop: a home may lie on a server that does not answer."""
        return await anyio.to_thread.run_sync(self.token, abandon_on_cancel=True)

    def credentials(self, token: Token | None) -> Credentials:
        """Return what probes show. Raises `AttachError` (`tls_failure`) on bad TLS variables."""
        return Credentials(token.value if token else None, tls_of(self.environ))

    def fits(self, other: "Connection") -> bool:
        """Whether a session made with `other` serves under these settings as well."""
        return all(getattr(self, name) == getattr(other, name) for name in _SESSION)

    def aims(self, other: "Connection") -> bool:
        """Whether `other` would make another attempt of it."""
        return any(getattr(self, name) != getattr(other, name) for name in (*_SESSION, *_AIM))

    def rank(self, attached: Candidate) -> int | None:
        """Return how many candidates are preferred to `attached`; None: it is one no more."""
        wanted = [one.address for one in self.candidates(None)]
        if attached.address in wanted:
            return wanted.index(attached.address)
        if attached.address in [one.address for one in self.last_resort()]:
            return len(wanted)
        source, _, kind = attached.source.partition(":")
        fallback = self.policy.fallback_after_s is not None
        allowed = {
            "request": not wanted,
            "local": self.allow_local_start and (fallback or not wanted),
            "discovery": kind in self.discovery.kinds,
        }
        return len(wanted) if allowed.get(source, False) else None


_SESSION: Final = ("namespace", "env_vars", "python", "token_file")
_AIM: Final = (
    "cli_address", "env_address", "config_addresses", "discovery", "allow_local_start", "deadlines"
)  # fmt: skip


def find_token(token_file: str | None, environ: Mapping[str, str]) -> Token | None:
    """Find the Ray token: our file, systemd's credential, Ray's variables, Ray's default file."""
    files = [(token_file, "ray.token_file")] if token_file else []
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        files.append((f"{credentials}/ray-token", "credential:ray-token"))
    for path, source in files:
        if value := _read(path):
            return Token(value, source)
    if value := environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(value, "env:RAY_AUTH_TOKEN")
    ray_files = [(environ.get("RAY_AUTH_TOKEN_PATH"), "env:RAY_AUTH_TOKEN_PATH")]
    if home := environ.get("HOME"):
        ray_files.append((f"{home}/.ray/auth_token", "file:~/.ray/auth_token"))
    for ray_path, source in ray_files:
        if ray_path and (value := _read(ray_path)):
            return Token(value, source)
    return None


def _read(path: str) -> str | None:
    """Read a token's file; one that is missing or not ours to read holds no token."""
    try:
        with open(path, "rb", opener=_unblocking) as file:
            return file.read(TOKEN_BYTES).decode().strip() or None
    except (OSError, ValueError):  # a ValueError: no UTF-8, or a NUL in the path
        return None


def _unblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
