"""openapi.json, from the same types that the routes use."""

from functools import cache
from typing import Any, Final

import msgspec

import castrayd
from castrayd.control import bodies
from castrayd.errors import ApiErrorType
from castrayd.supervisor.documents import AttemptDocument, Status

__all__ = ("document",)

_REF: Final = "#/components/schemas/{name}"


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


_BOOLEAN: Final = {"type": "string", "enum": ["true", "false", "1", "0", ""]}
_VERBOSE: Final = _query("verbose", _BOOLEAN, "List the checks.")
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}

_ROUTES: Final[tuple[dict[str, Any], ...]] = (
    {"path": "/api/status", "summary": "The whole truth.", "ok": Status},
    {"path": "/api/health/live", "summary": "Does the daemon answer?", "ok": bodies.HealthReply,
     "parameters": [_VERBOSE]},
    {"path": "/api/health/ready", "summary": "Is it connected?", "ok": bodies.HealthReply,
     "parameters": [_VERBOSE], "not_ready": bodies.HealthReply},
    {"path": "/api/reconnect", "method": "post", "summary": "Begin an attempt now, or join one.",
     "body": bodies.ReconnectBody, "ok": bodies.ReconnectReply, "status": 202,
     "errors": (409, 429, 503)},
    {"path": "/api/pause", "method": "post", "summary": "Want no attachment.",
     "body": bodies.ReasonBody, "ok": bodies.DesiredReply, "errors": (503,)},
    {"path": "/api/resume", "method": "post", "summary": "Want the attachment back.",
     "body": bodies.ReasonBody, "ok": bodies.DesiredReply, "errors": (503,)},
    {"path": "/api/reload", "method": "post", "summary": "Read the settings anew.",
     "body": bodies.EmptyBody, "ok": bodies.ReloadReply, "errors": (503,)},
    {"path": "/api/attempts", "summary": "The last attempts, newest first.",
     "ok": bodies.AttemptList,
     "parameters": [_query("limit", {"type": "integer", "minimum": 1, "maximum": 1000},
                           "How many; 50 without it.")]},
    {"path": "/api/attempts/{id}", "summary": "One attempt.", "ok": AttemptDocument,
     "parameters": [_ID], "errors": (404,)},
    {"path": "/api/events", "summary": "What happened, as NDJSON; the first line is a snapshot.",
     "ok": None,
     "parameters": [
         _query("since", {"type": "integer", "minimum": 0, "maximum": 2**62},
                "Replay what came after this seq."),
         _query("types", {"type": "string"}, "Names of events, separated by commas."),
         _query("follow", _BOOLEAN, "Stay and send what comes.")]},
    {"path": "/api/cluster/nodes", "summary": "The cluster's nodes.", "ok": bodies.NodeList,
     "errors": (503,)},
    {"path": "/api/log-level", "summary": "The level in force.", "ok": bodies.LogLevelBody},
    {"path": "/api/log-level", "method": "put", "summary": "Move the level.",
     "body": bodies.LogLevelBody, "ok": bodies.LogLevelBody},
    {"path": "/api/version", "summary": "Versions.", "ok": bodies.VersionDocument},
    {"path": "/api/openapi.json", "summary": "This document.", "ok": dict},
)  # fmt: skip


@cache
def document() -> dict[str, Any]:
    """Build the document, once."""
    kinds = [bodies.ErrorReply]
    for route in _ROUTES:
        kinds += [
            k for key in ("ok", "body", "not_ready") if (k := route.get(key)) not in {None, dict}
        ]
    unique = list(dict.fromkeys(kinds))
    refs, components = msgspec.json.schema_components(unique, ref_template=_REF)
    schemas = dict(zip(unique, refs, strict=True))
    paths: dict[str, Any] = {}
    for route in _ROUTES:
        paths.setdefault(route["path"], {})[route.get("method", "get")] = _operation(route, schemas)
    types = ", ".join(ApiErrorType)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "castrayd",
            "version": castrayd.__version__,
            "description": f"Errors are one of: {types}.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: dict[str, Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    codes = {400, 403, *route.get("errors", ())} | ({413} if "body" in route else set())
    error = _json(schemas[bodies.ErrorReply])
    responses = {str(code): {"description": "refused", "content": error} for code in sorted(codes)}
    responses[str(route.get("status", 200))] = {
        "description": "done",
        "content": _content(route, schemas),
    }
    if "not_ready" in route:
        content = _json(schemas[route["not_ready"]])
        responses["503"] = {"description": "not connected", "content": content}
    operation: dict[str, Any] = {"summary": route["summary"], "responses": responses}
    if "parameters" in route:
        operation["parameters"] = route["parameters"]
    if "body" in route:
        required = bool(msgspec.json.schema(route["body"]).get("required"))
        operation["requestBody"] = {"content": _json(schemas[route["body"]]), "required": required}
    return operation


def _content(route: dict[str, Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    if route["ok"] is None:
        return {"application/x-ndjson": {"schema": {"type": "string"}}}
    return _json(schemas.get(route["ok"], {"type": "object"}))


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
