"""The closed sets of refusals: of a request of the API, and of one recipient of a cast."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from castrayd.errors import CastraydError

__all__ = ("API_STATUS", "ApiError", "ApiErrorType", "RecipientError", "RecipientErrorType")


class ApiErrorType(StrEnum):
    """The closed set of reasons for which the control API refuses a request."""

    BAD_REQUEST = "bad_request"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    PAUSED = "paused"
    RATE_LIMITED = "rate_limited"
    NOT_CONNECTED = "not_connected"
    NAME_TAKEN = "name_taken"
    CONFLICT = "conflict"
    PATH_FORBIDDEN = "path_forbidden"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    INTERNAL = "internal"


API_STATUS: Final[Mapping[ApiErrorType, int]] = MappingProxyType(
    {
        ApiErrorType.BAD_REQUEST: 400,
        ApiErrorType.FORBIDDEN: 403,
        ApiErrorType.NOT_FOUND: 404,
        ApiErrorType.PAUSED: 409,
        ApiErrorType.RATE_LIMITED: 429,
        ApiErrorType.NOT_CONNECTED: 503,
        ApiErrorType.NAME_TAKEN: 409,
        ApiErrorType.CONFLICT: 409,
        ApiErrorType.PATH_FORBIDDEN: 403,
        ApiErrorType.TOO_LARGE: 413,
        ApiErrorType.BUSY: 503,
        ApiErrorType.INTERNAL: 500,
    }
)


class ApiError(CastraydError):
    """Raised by a request handler to refuse a request; becomes `{"error": {...}}`."""

    def __init__(
        self,
        type: ApiErrorType,  # noqa: A002  the API's word
        message: str,
        hint: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(type, message, hint, field, retry_after_s)
        self.type = type
        self.message = message
        self.hint = hint
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class RecipientErrorType(StrEnum):
    """The closed set of what can become of one recipient, beside success."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    """Nothing is known: it may have come."""
    INBOX_FULL = "inbox_full"
    ID_REUSED = "id_reused"
    DISK_FULL = "disk_full"
    SOURCE_CHANGED = "source_changed"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    EXISTS = "exists"
    PATH_FORBIDDEN = "path_forbidden"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """It died in the middle: what was asked of it may have been done."""
    INTERNAL = "internal"


class RecipientError(CastraydError):
    """Raised when a casting node cannot be reached, or does not take what is meant for it."""

    def __init__(self, type: str, message: str) -> None:  # noqa: A002  the API's word
        super().__init__(type, message)
        self.type = RecipientErrorType(type)
        self.message = message

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"
