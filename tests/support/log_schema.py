"""What a line of the log may hold: a JSON schema, as a log store would have it.

Whatever a test's daemon writes is checked against it, so a key that nobody has named here, a value
of another type or a class that is none fails the test that met it.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import jsonschema_rs

from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType, Phase, Retry
from castrayd.telemetry.facts import FACTS, AttemptEnded, StateChanged
from castrayd.telemetry.logs import LEVELS

__all__ = ("SCHEMA", "check_lines")


def _one_of(words: Iterable[str] | type[StrEnum]) -> dict[str, Any]:
    return {"enum": [str(word) for word in words]}


_TEXT: Final = {"type": "string", "minLength": 1}
_COUNT: Final = {"type": "integer", "minimum": 0}
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
_SECONDS: Final = {"type": "number", "minimum": 0}
_TIME: Final = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}

_ALWAYS: Final = {
    "timestamp": _TIME,
    "level": _one_of(LEVELS),
    "message": {"type": "string"},
    "log.logger": {"type": "string", "pattern": r"^castrayd(\.[a-z]+)?$"},
    "service.name": {"const": "castrayd"},
    "service.version": _TEXT,
    "service.instance.id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "host.name": _TEXT,
    "process.pid": _COUNT,
}
_STARTED: Final = "castray.daemon.started"
_EVENT: Final = {
    "event.name": _one_of([_STARTED, *(fact.NAME for fact in FACTS)]),
    "event.sequence": _COUNT,
    "event.outcome": _one_of(["success", "failure", "unknown"]),
}
_ERROR: Final = {
    "error.type": _one_of(ErrorType),
    "error.message": {"type": "string", "maxLength": 1024},
    "error.retry": _one_of(Retry),
    "error.hint": _TEXT,
    "error.code": _TEXT,
    "exception.type": _TEXT,
    "exception.stacktrace": _TEXT,
}
_ATTEMPT: Final = {
    "castray.attempt.id": _TEXT,
    "castray.attempt.number": {"type": "integer", "minimum": 1},
    "castray.attempt.trigger": _one_of(Trigger),
    "castray.attempt.duration_s": _SECONDS,
    **{f"castray.phase.{phase}_s": _SECONDS for phase in Phase},
    "castray.phase.failed": _one_of(Phase),
    "castray.backoff.delay_s": _SECONDS,
    "castray.backoff.ceiling_s": _SECONDS,
    "castray.backoff.next_at": _TIME,
    "castray.outage.duration_s": _SECONDS,
    "log.suppressed": {"type": "integer", "minimum": 1},
}
_CASTING: Final = {
    "castray.caster": _TEXT,
    "castray.cast.id": _TEXT,
    "castray.cast.sender": {"type": "string"},
    "castray.cast.delivered": _COUNT,
    "castray.cast.failed": _COUNT,
    "castray.cast.duration_s": _SECONDS,
    "castray.transfer.id": _TEXT,
    "castray.transfer.state": _TEXT,
    "castray.transfer.bytes": _COUNT,
    "ray.node.id": {"type": "string", "pattern": "^[0-9a-f]+$"},
}
_OTHERS: Final = {
    "castray.state.from": _one_of(State),
    "castray.state.to": _one_of(State),
    "castray.session.id": _TEXT,
    "castray.session.stream": _one_of(["stdout", "stderr"]),
    "castray.session.duration_s": _SECONDS,
    "castray.address.source": _TEXT,
    "castray.namespace": _TEXT,
    "castray.desired": _one_of(Desired),
    "castray.desired.by": _TEXT,
    "castray.request.reason": {"type": "string"},
    "castray.warning.code": _TEXT,
    "client.uid": _COUNT,
    "client.pid": _COUNT,
    "ray.nodes.alive": _COUNT,
    "ray.nodes.dead": _COUNT,
    "server.address": _TEXT,
    "server.port": _PORT,
    "network.transport": {"const": "tcp"},
    "network.type": _one_of(["ipv4", "ipv6"]),
    "network.peer.address": _TEXT,
    "network.peer.port": _PORT,
    "ray.cluster.id": {"type": "string", "pattern": "^[0-9a-f]+$"},
    "ray.session.name": {"type": "string", "pattern": "^session_"},
    "ray.version": _TEXT,
    "ray.version.local": _TEXT,
}


def _when(condition: Mapping[str, Any], **then: Any) -> dict[str, Any]:
    """Demand more of a line whose keys have these values."""
    wanted = {key: {"const": value} for key, value in condition.items()}
    return {"if": {"properties": wanted, "required": list(wanted)}, "then": then}


_OF_AN_ATTEMPT: Final = [*list(_ATTEMPT)[:4], "castray.desired"]
_OF_A_STATE: Final = ["castray.state.from", "castray.state.to", "castray.desired"]
_FAILED: Final = ["error.type", "castray.phase.failed"]
_NO_ERROR: Final = {"not": {"anyOf": [{"required": [key]} for key in (*_FAILED, "error.code")]}}

SCHEMA: Final[Mapping[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {**_ALWAYS, **_EVENT, **_ERROR, **_ATTEMPT, **_CASTING, **_OTHERS},
    "additionalProperties": False,
    "required": list(_ALWAYS),
    "dependentRequired": {
        "error.type": ["error.message", "error.retry", "error.hint"],
        "event.outcome": ["castray.attempt.id", "event.sequence"],
        "castray.backoff.next_at": ["castray.backoff.delay_s", "castray.backoff.ceiling_s"],
        "castray.backoff.ceiling_s": ["castray.backoff.next_at"],
        "exception.type": ["exception.stacktrace"],
        "exception.stacktrace": ["exception.type"],
        "event.sequence": ["event.name"],
    },
    "allOf": [
        _when({"event.outcome": "success"}, **_NO_ERROR),
        _when({"event.outcome": "unknown"}, **_NO_ERROR),
        _when({"event.outcome": "failure"}, required=_FAILED),
        _when({"event.name": AttemptEnded.NAME}, required=["event.outcome", *_OF_AN_ATTEMPT]),
        _when({"event.name": StateChanged.NAME}, required=_OF_A_STATE),
        *(_when({"event.name": fact.NAME}, required=["event.sequence"]) for fact in FACTS),
    ],
}

_VALIDATOR: Final = jsonschema_rs.validator_for(dict(SCHEMA))


def check_lines(lines: Iterable[Mapping[str, Any]]) -> None:
    """Check lines of a log; fails with the first that breaks the schema, and why."""
    for line in lines:
        if not _VALIDATOR.is_valid(line):
            (first, *_) = _VALIDATOR.iter_errors(line)
            raise AssertionError(f"a line that the schema refuses: {first.message}\n{line}")
