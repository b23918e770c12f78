"""What the probes show to a cluster: its token, and the certificates of a cluster under TLS."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from castrayd.errors import AttachError, ErrorType, Fault, Phase

__all__ = ("Credentials", "Tls", "tls_of")


@dataclass(frozen=True, slots=True)
class Tls:
    """Ray's mutual TLS: files of PEM, read anew for each connection."""

    ca: str
    certificate: str
    key: str

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return CA, key and certificate. Raises `AttachError` (`tls_failure`)."""
        try:
            ca, key, certificate = (
                Path(path).read_bytes() for path in (self.ca, self.key, self.certificate)
            )
        except OSError as error:
            raise _failure(f"{error.filename}: {error.strerror}") from error
        return ca, key, certificate


@dataclass(frozen=True, slots=True)
class Credentials:
    """Shown to configured addresses and believed discoveries alone."""

    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    source: str = ""
    """Where the token was found, for who reads that it is refused."""


_VARIABLES = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY")


def tls_of(environ: Mapping[str, str]) -> Tls | None:
    """Read Ray's TLS variables; None without `RAY_USE_TLS`.

    Raises `AttachError` (`tls_failure`) where one is missing, as Ray would.
    """
    if environ.get("RAY_USE_TLS", "").lower() not in {"1", "true"}:
        return None
    missing = [name for name in _VARIABLES if not environ.get(name)]
    if missing:
        raise _failure(f"RAY_USE_TLS is set, but not {', '.join(missing)}")
    return Tls(*(environ[name] for name in _VARIABLES))


def _failure(message: str) -> AttachError:
    return AttachError(Fault.of(ErrorType.TLS_FAILURE, Phase.HEALTH, message))
