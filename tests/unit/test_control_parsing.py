"""Queries and bodies: what does not fit is refused, by the name of the field."""

import asyncio
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from castrayd.control.bodies import LogLevelBody, ReasonBody, ReconnectBody
from castrayd.control.parsing import address, body, flag, integer, names, query
from castrayd.refusals import ApiError, ApiErrorType


def _query(path: str) -> Any:
    return make_mocked_request("GET", path)


def _request(raw: bytes, broken: Exception | None = None) -> Any:
    """A request whose body has come in already, or has broken off after `raw`."""
    loop = asyncio.get_running_loop()
    payload = StreamReader(BaseProtocol(loop), 2**20, loop=loop)
    payload.feed_data(raw)
    if broken is not None:
        payload.set_exception(broken)
    else:
        payload.feed_eof()
    return make_mocked_request("POST", "/", payload=payload)


def _refused(caught: pytest.ExceptionInfo[ApiError]) -> str | None:
    assert caught.value.type is ApiErrorType.BAD_REQUEST
    return caught.value.field


@pytest.mark.parametrize(
    ("path", "field"), [("/?x=1", "x"), ("/?limit=1&limit=2", "limit"), ("/?limit=1&y", "y")]
)
def test_query_unknown_or_repeated_is_refused(path: str, field: str) -> None:
    """A parameter that does nothing, or two that contradict, are a mistake of the client."""
    with pytest.raises(ApiError) as caught:
        query(_query(path), "limit")

    assert field == _refused(caught)


@pytest.mark.parametrize(("text", "value"), [("", True), ("1", True), ("true", True), ("0", False)])
def test_flag_is_read(text: str, value: bool) -> None:
    """The bare name, 1 and true are on."""
    assert value is flag({"verbose": text}, "verbose")


@pytest.mark.parametrize("text", ["yes", "TRUE", "2", " "])
def test_flag_of_another_word_is_refused(text: str) -> None:
    """No guessing."""
    with pytest.raises(ApiError) as caught:
        flag({"verbose": text}, "verbose")

    assert "verbose" == _refused(caught)


@pytest.mark.parametrize("text", ["", "0", "1001", "-1", "1.0", "1e2", "٣", "9" * 5000, "+1"])
def test_integer_out_of_range_or_no_number_is_refused(text: str) -> None:
    """Also a number so long that int() itself would refuse it, and digits of other scripts."""
    with pytest.raises(ApiError) as caught:
        integer({"limit": text}, "limit", 50, low=1, high=1000)

    assert "limit" == _refused(caught)


def test_integer_absent_is_the_default() -> None:
    """And both bounds are included."""
    assert 50 == integer({}, "limit", 50, low=1, high=1000)
    assert (1, 1000) == tuple(
        integer({"n": text}, "n", None, low=1, high=1000) for text in ("1", "1000")
    )


def test_names_are_separated_by_commas() -> None:
    """None at all means every one."""
    assert names({"types": "a,b,,"}, "types") == frozenset({"a", "b"})
    assert names({"types": ""}, "types") is None
    assert names({}, "types") is None


@pytest.mark.parametrize(
    ("raw", "kind", "field"),
    [
        (b'{"x": 1}', ReasonBody, "x"),
        (b'{"reason": 1}', ReasonBody, "reason"),
        (b'{"reason": "%s"}' % (b"x" * 1025), ReasonBody, "reason"),
        (b'{"address": []}', ReconnectBody, "address"),
        (b"", LogLevelBody, "level"),
        (b'{"level": "loud"}', LogLevelBody, "level"),
        (b"[]", ReasonBody, None),
        (b"{", ReasonBody, None),
        (b'{"reason": "\xff"}', ReasonBody, None),
        (b'{"reason": "\\ud800"}', ReasonBody, None),
        (b"[" * 100_000, ReasonBody, None),
        (b'{"x":' * 100_000, ReasonBody, "x"),
    ],
)
async def test_body_that_does_not_fit_is_refused(raw: bytes, kind: type, field: str | None) -> None:
    """Unknown and missing fields, wrong types, broken JSON and text: named by the path."""
    with pytest.raises(ApiError) as caught:
        await body(_request(raw), kind)

    assert field == _refused(caught)


async def test_body_of_nothing_is_an_empty_object() -> None:
    """Where all is optional nothing need be sent."""
    assert ReconnectBody() == await body(_request(b""), ReconnectBody)


async def test_body_that_breaks_off_is_refused() -> None:
    """A client that goes away in the middle is no bug of ours."""
    with pytest.raises(ApiError) as caught:
        await body(_request(b"{", ConnectionResetError()), ReasonBody)

    assert _refused(caught) is None


def test_address_is_checked_with_a_hint() -> None:
    """The field is named, and what would be right."""
    assert address(None) is None
    assert address(" head:6379 ") == "head:6379"
    with pytest.raises(ApiError) as caught:
        address("local")
    assert "address" == _refused(caught)
    assert caught.value.hint
