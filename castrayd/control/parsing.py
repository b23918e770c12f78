"""Requests, parsed: bodies, queries and their values. What does not fit is `bad_request`.

The routes alone call it. Every refusal names the field, by its path in the body or by the name
of the parameter.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar, overload

import msgspec
from aiohttp import web

from castrayd.core.candidates import parse_address
from castrayd.errors import AttachError
from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("address", "body", "flag", "integer", "name_in_path", "names", "query")

_T = TypeVar("_T")

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def query(request: web.Request, *known: str) -> Mapping[str, str]:
    """Return the query's parameters; one that is unknown or given twice is refused."""
    if "?" not in request.raw_path:
        return _NOTHING
    for name in request.query:
        if name not in known:
            raise _bad("no such parameter", name)
        if len(request.query.getall(name)) > 1:
            raise _bad("given more than once", name)
    return request.query


def flag(values: Mapping[str, str], name: str) -> bool:
    """Read a switch: absent is off; the bare name, `1` and `true` are on."""
    text = values.get(name)
    if text in {None, "0", "false"}:
        return False
    if text in {"", "1", "true"}:
        return True
    raise _bad("true or false is expected", name)


@overload
def integer(values: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int: ...
@overload
def integer(
    values: Mapping[str, str], name: str, default: None, *, low: int, high: int
) -> int | None: ...
def integer(
    values: Mapping[str, str], name: str, default: int | None, *, low: int, high: int
) -> int | None:
    """Read a whole number in `low` to `high`, both included."""
    text = values.get(name)
    if text is None:
        return default
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(high))
    if not digits or not low <= int(text) <= high:
        raise _bad(f"a number from {low} to {high} is expected", name)
    return int(text)


def names(values: Mapping[str, str], name: str) -> frozenset[str] | None:
    """Read a list of names separated by commas; None, which means all, when there is none."""
    found = frozenset(filter(None, values.get(name, "").split(",")))
    return found or None


def name_in_path(request: web.Request) -> str:
    """Return the name of a casting node, or of a group, that the path has."""
    name: str = request.match_info["name"]
    if not _NAME.fullmatch(name):
        raise _bad("letters, digits and . _ - are expected, at most 64", "name")
    return name


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


async def body(request: web.Request, kind: type[_T]) -> _T:
    """Decode the body as `kind`; none at all is an empty object.

    A client that goes away, or whose compression is broken, in the middle of it is refused too.
    """
    query(request)
    try:
        raw = await request.read() or b"{}"
    except (web.RequestPayloadError, OSError) as error:
        message = "the body cannot be read"
        raise ApiError(ApiErrorType.BAD_REQUEST, message) from error
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise _bad(message, _field(message, path.rstrip("`"))) from error
    except RecursionError as error:
        raise _bad("nested too deeply", "body") from error  # nothing else may nest at all
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"no JSON: {error}"
        raise ApiError(ApiErrorType.BAD_REQUEST, message) from error


def _field(message: str, path: str) -> str | None:
    """Return the path of a field; msgspec names an unknown or a missing one in its message."""
    named = _NAMED.fullmatch(message)
    parts = (path, named["name"] if named else "")
    return ".".join(filter(None, parts)) or None


_NAMED: Final = re.compile(
    r"Object (contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL
)


def address(text: str | None) -> str | None:
    """Check an address that a request names; returns it as it is to be used."""
    if text is None:
        return None
    try:
        return parse_address(text).url
    except AttachError as error:
        fault = error.fault
        raise ApiError(
            ApiErrorType.BAD_REQUEST, fault.message, fault.hint, field="address"
        ) from error


def _bad(message: str, field: str | None) -> ApiError:
    return ApiError(ApiErrorType.BAD_REQUEST, message, field=field)
