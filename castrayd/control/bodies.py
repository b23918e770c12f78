"""What comes in and goes out, as types: requests forbid what they do not know.

The routes decode and encode by them, openapi.json is made of them. No rule of the API is here
that a type cannot say.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

from castrayd.casting.documents import CastingNodeDocument, GroupDocument, TransferDocument
from castrayd.casting.link import NAME
from castrayd.casting.targets import Labels
from castrayd.refusals import ApiErrorType
from castrayd.supervisor.documents import AttemptDocument, NodeDocument

__all__ = (
    "ADDRESS_SCHEMA",
    "AttemptList",
    "CasterName",
    "CastingNodeBody",
    "CastingNodeList",
    "DesiredReply",
    "EmptyBody",
    "ErrorBody",
    "ErrorReply",
    "FileList",
    "GroupBody",
    "GroupList",
    "HealthReply",
    "Level",
    "LogLevelBody",
    "MessageBody",
    "MessageList",
    "NodeList",
    "PlaceBody",
    "ReasonBody",
    "ReconnectBody",
    "ReconnectReply",
    "ReloadReply",
    "SourceBody",
    "TransferBody",
    "TransferList",
    "UploadReply",
    "VersionDocument",
)

Reason: TypeAlias = Annotated[str, Meta(max_length=1024)]
"""Why somebody wants something: a sentence, for status and the log."""

ADDRESS_SCHEMA = {"pattern": r"^[A-Za-z0-9._-]{1,253}:[1-9][0-9]{0,3}$", "examples": ["head:6379"]}
"""For readers of openapi.json: `core.candidates.parse_address` takes more, and says more."""

Level: TypeAlias = Literal["debug", "info", "warning", "error"]


class ReconnectBody(Struct, forbid_unknown_fields=True):
    """POST /api/reconnect."""

    address: Annotated[str, Meta(extra_json_schema=ADDRESS_SCHEMA)] | None = None
    reason: Reason | None = None


class ReasonBody(Struct, forbid_unknown_fields=True):
    """POST /api/pause and /api/resume."""

    reason: Reason | None = None


class EmptyBody(Struct, forbid_unknown_fields=True):
    """POST /api/reload."""


class LogLevelBody(Struct, forbid_unknown_fields=True):
    """GET and PUT /api/log-level."""

    level: Level


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


CasterName: TypeAlias = Annotated[str, Meta(pattern=NAME)]
"""Of a casting node, and of a group."""


class PlaceBody(Struct, forbid_unknown_fields=True):
    """Where a casting node is wanted; all that is named must fit."""

    node_id: str | None = None
    address: str | None = None
    hostname: str | None = None
    labels: dict[str, str] | None = None


class CastingNodeBody(Struct, forbid_unknown_fields=True):
    """POST /api/nodes."""

    name: CasterName
    on: PlaceBody | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    required: bool = True


class CastingNodeList(Struct):
    """Casting nodes, this daemon's own first."""

    nodes: list[CastingNodeDocument]


class GroupBody(Struct, forbid_unknown_fields=True):
    """PUT /api/groups/{name}."""

    members: Annotated[list[CasterName], Meta(max_length=10_000)]


class GroupList(Struct):
    """Groups, by name."""

    groups: list[GroupDocument]


Recipients: TypeAlias = (
    Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=10_000)] | str | Labels
)


class MessageBody(Struct, forbid_unknown_fields=True):
    """POST /api/messages."""

    to: Recipients
    body: Any
    sender: CasterName | None = field(default=None, name="from")
    id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    retries: Annotated[int, Meta(ge=0, le=100)] = 0


class SourceBody(Struct, forbid_unknown_fields=True):
    """What is sent: a casting node's file, or an upload."""

    node: CasterName | None = None
    path: str | None = None
    upload: CasterName | None = None


class TransferBody(Struct, forbid_unknown_fields=True):
    """POST /api/transfers."""

    source: SourceBody
    to: Recipients
    path: str | None = None
    if_exists: Literal["refuse", "replace", "keep_both"] = "refuse"
    bandwidth_bytes_s: Annotated[int, Meta(ge=1)] | None = None


class TransferList(Struct):
    """Transfers, the newest first."""

    transfers: list[TransferDocument]


class UploadReply(Struct):
    """An upload that is here."""

    name: str
    bytes: int


class FileList(Struct):
    """What is in a folder of a casting node."""

    files: list[dict[str, Any]]


class MessageList(Struct):
    """Messages of an inbox, in the order in which they came."""

    messages: list[dict[str, Any]]


class ErrorBody(Struct, omit_defaults=True):
    """Why a request was refused."""

    type: ApiErrorType
    message: str
    hint: str | None = None
    field: str | None = None


class ErrorReply(Struct):
    """Every refusal."""

    error: ErrorBody
