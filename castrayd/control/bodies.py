"""What comes in and goes out, as types: requests forbid what they do not know."""

import msgspec
from msgspec import Struct

from castrayd.errors import ApiErrorType
from castrayd.supervisor.documents import AttemptDocument, NodeDocument

__all__ = (
    "AttemptList",
    "DesiredReply",
    "ErrorBody",
    "ErrorReply",
    "HealthReply",
    "LogLevelBody",
    "NodeList",
    "ReasonBody",
    "ReconnectBody",
    "ReconnectReply",
    "ReloadReply",
    "VersionDocument",
)


class ReconnectBody(Struct, forbid_unknown_fields=True):
    """POST /api/reconnect."""

    address: str | None = None
    reason: str | None = None


class ReasonBody(Struct, forbid_unknown_fields=True):
    """POST /api/pause and /api/resume."""

    reason: str | None = None


class EmptyBody(Struct, forbid_unknown_fields=True):
    """POST /api/reload."""


class LogLevelBody(Struct, forbid_unknown_fields=True):
    """GET and PUT /api/log-level."""

    level: str


class ReconnectReply(Struct):
    """The attempt that answers a request, new or joined."""

    attempt_id: str
    joined: bool


class DesiredReply(Struct):
    """What is desired now."""

    desired: str


class ReloadReply(Struct):
    """What a reload did."""

    changed: list[str]
    reconnect: bool
    restart_required: list[str]


class HealthReply(Struct, omit_defaults=True):
    """Liveness and readiness."""

    status: str
    state: str | None = None
    checks: dict[str, str] | None = None


class VersionDocument(Struct):
    """Versions of what runs here."""

    castrayd: str
    python: str
    api_version: int
    ray: str | None


class AttemptList(Struct):
    """Attempts, newest first."""

    attempts: list[AttemptDocument]


class NodeList(Struct):
    """The cluster's nodes."""

    nodes: list[NodeDocument]


class ErrorBody(Struct, omit_defaults=True):
    """Why a request was refused."""

    type: ApiErrorType
    message: str
    hint: str | None = None
    field: str | None = None


class ErrorReply(Struct):
    """Every refusal."""

    error: ErrorBody


encode = msgspec.json.Encoder().encode
