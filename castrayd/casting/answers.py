"""What casting nodes answer, as far as it is read here.

Any Ray job may make an actor of a casting node's name, and have it answer whatever it likes: an
answer that is not of its method's shape is a failure of that node, and of nothing else.
"""

from collections.abc import Mapping
from typing import Any, Final, NotRequired, TypedDict

import msgspec

from castrayd.refusals import RecipientError, RecipientErrorType

__all__ = ("checked", "checked_outcomes")


class _Problem(TypedDict):
    type: str
    message: str


class _Described(TypedDict):
    name: str
    owner: str
    required: bool
    node_id: str
    address: str
    hostname: str
    port: int | None
    reason: str | None
    roots: dict[str, str]
    inbox: dict[str, int]
    made_of: NotRequired[str | None]
    sending: NotRequired[int]


class _Letter(TypedDict):
    seq: int
    body: str


class _Read(TypedDict):
    messages: list[_Letter]


class _Files(TypedDict):
    files: NotRequired[list[dict[str, Any]]]
    error: NotRequired[_Problem]


class _Row(TypedDict):
    recipient: str
    state: str
    bytes_verified: int | None
    bytes_sent: int
    sha256: str | None
    path: str | None
    error: _Problem | None


class _Identity(TypedDict):
    mtime_ns: NotRequired[int | None]


class _Progress(TypedDict):
    state: str
    bytes_total: int | None
    sha256: str | None
    recipients: list[_Row]
    identity: NotRequired[_Identity | None]
    error: NotRequired[_Problem | None]


class _Published(TypedDict):
    path: str
    bytes: int
    sha256: str


class _Abandoned(TypedDict):
    done: NotRequired[_Published]


_SHAPES: Final[Mapping[str, Any]] = {
    "describe": _Described,
    "host": dict[str, Any],
    "deliver": list[str],
    "read": _Read,
    "datagram": str | None,
    "files": _Files,
    "send": _Progress,
    "sending": _Progress | None,
    "file_abandon": _Abandoned,
}
"""By method; of others the answer is not read."""
_KEPT: Final = frozenset({"describe", "send", "sending", "file_abandon"})
"""In the ledger, in part. A file's name may be no text, and is shown as far as it is."""


def checked(method: str, answer: Any) -> Any:  # noqa: ANN401
    """Return an answer as it is. Raises `RecipientError` (`internal`) for one of another shape."""
    try:
        msgspec.convert(answer, _SHAPES.get(method, Any))
        if method in _KEPT:
            msgspec.json.encode(answer)  # half a character cannot be
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _senseless(method, str(error)) from error
    return answer


def checked_outcomes(answer: Any, count: int) -> list[str]:  # noqa: ANN401
    """Return the outcomes of so many messages. Raises as `checked` does."""
    outcomes: list[str] = checked("deliver", answer)
    if len(outcomes) != count:
        raise _senseless("deliver", f"{len(outcomes)} outcomes of {count} messages")
    return outcomes


def _senseless(method: str, why: str) -> RecipientError:
    message = f"its answer to `{method}` makes no sense: {why}"
    return RecipientError(RecipientErrorType.INTERNAL, message)
