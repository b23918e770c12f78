"""Addresses and candidates: what the settings ask for, parsed and in order of preference."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase

__all__ = ("AUTO", "LOCAL", "Address", "Candidate", "candidate", "configured", "parse_address")

AUTO: Final = "auto"
"""As an address: nothing is configured, discovery alone decides."""

_MAX_PORT: Final = 65535
_PORT_DIGITS: Final = 5


@dataclass(frozen=True, slots=True)
class Address:
    """A place to attach to. `url` is what the operator wrote, without surrounding space."""

    url: str
    host: str
    """Name or IP address; an IPv6 address without its brackets. Empty in local mode."""
    port: int
    mode: Mode


LOCAL: Final = Address(url="local", host="", port=0, mode=Mode.LOCAL)
"""The cluster that the session itself starts. Never parsed from text: only the policy makes it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address to try, and where it came from; with a fault instead where it is unusable."""

    text: str
    source: str
    """`cli`, `env:RAY_ADDRESS`, `config`, `discovery:<kind>`, `request` or `local`."""
    address: Address | None
    fault: Fault | None = None
    hearsay: bool = False
    """Nobody has named it: before it is shown the token, a raylet of ours must vouch for it."""


def parse_address(text: str) -> Address:
    """Parse `host:port`, `[v6]:port` or `ray://host:port`.

    Raises `AttachError` (`address_invalid`). `local` is refused like any other word: no text
    from outside may start a cluster.
    """
    url = text.strip()
    if not url.isprintable():
        raise _invalid(text, "expected printable text")
    rest, mode = (url[6:], Mode.CLIENT) if url.startswith("ray://") else (url, Mode.DRIVER)
    host, colon, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _invalid(text, "write an IPv6 address in brackets, or drop the scheme")
    if not colon or not host or any(c in " /@?#[]" or not c.isprintable() for c in host):
        raise _invalid(text, "expected host:port")
    if not _is_port(port):
        raise _invalid(text, "expected host:port with a port from 1 to 65535")
    return Address(url, host, int(port), mode)


def _is_port(text: str) -> bool:
    """Whether it is a number from 1 to 65535; a longer one never becomes an int."""
    digits = text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS
    return digits and 0 < int(text) <= _MAX_PORT


def _invalid(text: str, why: str) -> AttachError:
    message = f"{_shown(text)!r}: {why}"
    return AttachError(Fault.of(ErrorType.ADDRESS_INVALID, Phase.DISCOVER, message))


def _shown(text: str) -> str:
    """Replace what is no text at all: bytes of the environment that are not UTF-8."""
    return text.encode(errors="replace").decode()


def candidate(text: str, source: str) -> Candidate:
    """Make a candidate of `text`; a bad address becomes its fault, not an exception."""
    try:
        return Candidate(text, source, parse_address(text))
    except AttachError as error:
        return Candidate(_shown(text), source, None, error.fault)


def configured(cli: str | None, env: str | None, config: Iterable[str]) -> tuple[Candidate, ...]:
    """Candidates of the first source that names any: argument, `RAY_ADDRESS`, configuration.

    `auto` in a source means that it names none and that the later sources are not asked.
    """
    sources: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("cli", (cli,) if cli else ()),
        ("env:RAY_ADDRESS", (env,) if env else ()),
        ("config", tuple(config)),
    )
    for source, texts in sources:
        if texts:
            return tuple(_unique(candidate(text, source) for text in texts if text.strip() != AUTO))
    return ()


def _unique(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    seen: set[str] = set()
    for one in candidates:
        key = one.text.strip()
        if key not in seen:
            seen.add(key)
            yield one
