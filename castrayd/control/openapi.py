"""openapi.json, made from the types that the routes themselves decode and encode by.

A test compares its paths with the router's. Built once, when it is first asked for.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec

import castrayd
from castrayd.casting.documents import (
    CastDocument,
    CastingNodeDocument,
    GroupDocument,
    PurgeDocument,
    TransferDocument,
)
from castrayd.control import bodies
from castrayd.refusals import ApiErrorType
from castrayd.supervisor.doctor import DoctorReport
from castrayd.supervisor.documents import AttemptDocument, Status

__all__ = ("MAX_LIMIT", "MAX_SEQ", "document")

MAX_LIMIT: Final = 1000
MAX_SEQ: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact, RFC 8259 section 6."""

_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Route:
    """One operation. Every one may also answer 400 and 403, one with a body 413."""

    path: str
    summary: str
    ok: Any
    """The type of a good reply; None where it is no JSON document."""
    method: str = "get"
    status: int = 200
    body: Any = None
    raw: bool = False
    """Whether the body is bytes as they are."""
    parameters: tuple[Schema, ...] = ()
    errors: tuple[int, ...] = ()
    media: str = _NDJSON
    """Of a good reply that is no JSON document."""
    not_ready: Any = None
    """The type of a documented 503 that is no refusal."""


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


_SWITCH: Final = {"type": "string", "enum": ["true", "false", "1", "0", ""]}
_VERBOSE: Final = _query("verbose", _SWITCH, "List the checks.")
_LIMIT: Final = _query("limit", _whole(1, MAX_LIMIT), "How many; 50 without it.")
_ADDRESS: Final = _query(
    "address",
    {"type": "string", **bodies.ADDRESS_SCHEMA},
    "Look at this one alone; needs the right to name an address.",
)
_NAME: Final = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
}
_INBOX: Final = (
    _NAME,
    _query("since", _whole(0, MAX_SEQ), "Only what came after this `seq`."),
    _query("limit", _whole(1, MAX_LIMIT), "How many; 100 without it."),
    _query("follow", _SWITCH, "Stay, and send what comes, one JSON document a line."),
    _query("ack", _SWITCH, "Be done with what is up to `since`; needs the right to write."),
)
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_EVENTS: Final = (
    _query("since", _whole(0, MAX_SEQ), "Replay what came after this `seq`."),
    _query("types", {"type": "string"}, "Names of events, separated by commas."),
    _query("follow", _SWITCH, "Stay, and send what comes."),
)

_ROUTES: Final = (
    _Route("/api/status", "The whole truth, one document.", Status),
    _Route(
        "/api/health/live", "Does the daemon answer?", bodies.HealthReply, parameters=(_VERBOSE,)
    ),
    _Route(
        "/api/health/ready",
        "Is it connected?",
        bodies.HealthReply,
        parameters=(_VERBOSE,),
        not_ready=bodies.HealthReply,
    ),
    _Route(
        "/api/reconnect",
        "Begin an attempt now, or join the one under way.",
        bodies.ReconnectReply,
        method="post",
        status=202,
        body=bodies.ReconnectBody,
        errors=(409, 429, 503),
    ),
    _Route(
        "/api/pause",
        "Want no attachment, over restarts too.",
        bodies.DesiredReply,
        method="post",
        body=bodies.ReasonBody,
        errors=(503,),
    ),
    _Route(
        "/api/resume",
        "Want the attachment back.",
        bodies.DesiredReply,
        method="post",
        body=bodies.ReasonBody,
        errors=(503,),
    ),
    _Route(
        "/api/reload",
        "Read the settings anew; a faulty file changes nothing.",
        bodies.ReloadReply,
        method="post",
        body=bodies.EmptyBody,
        errors=(503,),
    ),
    _Route(
        "/api/attempts",
        "The last attempts, newest first.",
        bodies.AttemptList,
        parameters=(_LIMIT,),
    ),
    _Route("/api/attempts/{id}", "One attempt.", AttemptDocument, parameters=(_ID,), errors=(404,)),
    _Route(
        "/api/events",
        "What happened, one JSON document a line; the first line is a snapshot.",
        None,
        parameters=_EVENTS,
    ),
    _Route(
        "/api/doctor",
        "Walk to every known cluster now, step by step, and look at the host; changes nothing.",
        DoctorReport,
        parameters=(_ADDRESS,),
    ),
    _Route("/metrics", "For Prometheus.", None, media="text/plain"),
    _Route("/api/cluster/nodes", "The cluster's nodes.", bodies.NodeList, errors=(503,)),
    _Route("/api/nodes", "All casting nodes, our own first.", bodies.CastingNodeList),
    _Route(
        "/api/nodes",
        "Want a casting node, and make it.",
        CastingNodeDocument,
        method="post",
        status=201,
        body=bodies.CastingNodeBody,
        errors=(409,),
    ),
    _Route(
        "/api/nodes",
        "Remove all of this daemon's, also the hidden one that sends uploads.",
        PurgeDocument,
        method="delete",
        errors=(409, 503),
    ),
    _Route("/api/nodes/{name}", "One.", CastingNodeDocument, parameters=(_NAME,), errors=(404,)),
    _Route(
        "/api/nodes/{name}",
        "Want it no more, and remove it.",
        dict,
        method="delete",
        parameters=(_NAME,),
        errors=(404, 409),
    ),
    _Route(
        "/api/nodes/{name}/messages",
        "What is in its inbox, and stays there until it is acknowledged.",
        bodies.MessageList,
        parameters=_INBOX,
        errors=(404, 503),
    ),
    _Route("/api/groups", "All groups.", bodies.GroupList),
    _Route("/api/groups/{name}", "One.", GroupDocument, parameters=(_NAME,), errors=(404,)),
    _Route(
        "/api/groups/{name}",
        "Make a group, or give it these members.",
        GroupDocument,
        method="put",
        body=bodies.GroupBody,
        parameters=(_NAME,),
    ),
    _Route(
        "/api/groups/{name}",
        "Forget a group.",
        dict,
        method="delete",
        parameters=(_NAME,),
        errors=(404,),
    ),
    _Route(
        "/api/messages",
        "Send a message; the reply has a receipt of each recipient.",
        CastDocument,
        method="post",
        body=bodies.MessageBody,
        errors=(404, 503),
    ),
    _Route(
        "/api/nodes/{name}/files",
        "What is in a folder of one of its roots.",
        bodies.FileList,
        parameters=(
            _NAME,
            _query("path", {"type": "string"}, "ROOT:PATH; `files:` without it."),
            _query("limit", _whole(1, MAX_LIMIT), "How many; 1000 without it."),
        ),
        errors=(404, 503),
    ),
    _Route(
        "/api/uploads/{name}",
        "Take a file in that is to be sent, by its user alone; the body is the file.",
        bodies.UploadReply,
        method="put",
        status=201,
        raw=True,
        parameters=(
            _NAME,
            _query("once", _SWITCH, "It is for one transfer, and goes when all have it."),
        ),
        errors=(409,),
    ),
    _Route(
        "/api/uploads/{name}",
        "Remove it; its user may, where no transfer needs it.",
        dict,
        method="delete",
        parameters=(_NAME,),
        errors=(404, 409),
    ),
    _Route(
        "/api/transfers",
        "Files on their way, newest first.",
        bodies.TransferList,
        parameters=(_LIMIT,),
    ),
    _Route(
        "/api/transfers",
        "Send a file; accepted for good when this is answered.",
        TransferDocument,
        method="post",
        status=202,
        body=bodies.TransferBody,
        errors=(404, 503),
    ),
    _Route("/api/transfers/{id}", "One.", TransferDocument, parameters=(_ID,), errors=(404,)),
    _Route(
        "/api/transfers/{id}",
        "Cancel it.",
        TransferDocument,
        method="delete",
        parameters=(_ID,),
        errors=(404, 409),
    ),
    _Route(
        "/api/transfers/{id}/retry",
        "Begin again with those that do not have it.",
        TransferDocument,
        method="post",
        status=202,
        body=bodies.EmptyBody,
        parameters=(_ID,),
        errors=(404, 409),
    ),
    _Route("/api/log-level", "The log level in force.", bodies.LogLevelBody),
    _Route(
        "/api/log-level",
        "Move the log level, until the next start or reload.",
        bodies.LogLevelBody,
        method="put",
        body=bodies.LogLevelBody,
    ),
    _Route("/api/version", "Versions of what runs here.", bodies.VersionDocument),
    _Route("/api/openapi.json", "This document.", dict),
)


@cache
def document() -> Schema:
    """Build the document."""
    kinds: list[Any] = [bodies.ErrorReply]
    kinds += [kind for r in _ROUTES for kind in (r.ok, r.body, r.not_ready) if kind]
    unique = [kind for kind in dict.fromkeys(kinds) if kind is not dict]
    refs, components = msgspec.json.schema_components(unique, ref_template=_REF)
    schemas = dict(zip(unique, refs, strict=True)) | {dict: {"type": "object"}}
    paths: Schema = {}
    for route in _ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "castrayd",
            "version": castrayd.__version__,
            "description": f"Types of errors: {', '.join(ApiErrorType)}.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: _Route, schemas: dict[Any, Schema]) -> Schema:
    operation: Schema = {"summary": route.summary, "responses": _responses(route, schemas)}
    if route.parameters:
        operation["parameters"] = list(route.parameters)
    if route.body is not None:
        required = any(field.required for field in msgspec.structs.fields(route.body))
        content = {_JSON: {"schema": schemas[route.body]}}
        operation["requestBody"] = {"content": content, "required": required}
    if route.raw:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"content": content, "required": True}
    return operation


def _responses(route: _Route, schemas: dict[Any, Schema]) -> Schema:
    codes = {400, 403, *route.errors} | ({413} if route.body or route.raw else set())
    refused = {_JSON: {"schema": schemas[bodies.ErrorReply]}}
    responses = {str(code): _response("refused", refused) for code in sorted(codes)}
    good = {_JSON: {"schema": schemas[route.ok]}} if route.ok else {route.media: {"schema": _LINE}}
    responses[str(route.status)] = _response("done", good)
    if route.not_ready is not None:
        content = {_JSON: {"schema": schemas[route.not_ready]}}
        responses["503"] = _response("not connected", content)
    return responses


_LINE: Final = {
    "type": "string",
    "description": "Lines of JSON (seq, at, name, ...), or of text.",
}


def _response(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}
