"""Addresses and candidates: what is accepted, what is refused, which source counts."""

import pytest

from castrayd.core.candidates import LOCAL, Address, candidate, configured, parse_address
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Phase, Retry

DRIVER, CLIENT = Mode.DRIVER, Mode.CLIENT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("head:6379", Address("head:6379", "head", 6379, DRIVER)),
        ("  head:6379\n", Address("head:6379", "head", 6379, DRIVER)),
        ("10.0.0.1:1", Address("10.0.0.1:1", "10.0.0.1", 1, DRIVER)),
        ("head.example:65535", Address("head.example:65535", "head.example", 65535, DRIVER)),
        ("[::1]:6379", Address("[::1]:6379", "::1", 6379, DRIVER)),
        ("[fe80::1%eth0]:6379", Address("[fe80::1%eth0]:6379", "fe80::1%eth0", 6379, DRIVER)),
        ("ray://head:10001", Address("ray://head:10001", "head", 10001, CLIENT)),
        ("ray://[::1]:10001", Address("ray://[::1]:10001", "::1", 10001, CLIENT)),
        ("localhost:6379", Address("localhost:6379", "localhost", 6379, DRIVER)),
    ],
)
def test_address_is_parsed(text: str, expected: Address) -> None:
    """Host, port and mode; the text is kept as written, without the space around it."""
    assert expected == parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "head",
        ":6379",
        "head:",
        "head:port",
        "head:-1",
        "head:+1",
        "head:0",
        "head:65536",
        "head:" + "9" * 5000,
        "head:6379.0",
        "head:\N{FULLWIDTH DIGIT SIX}379",
        "head:\N{SUPERSCRIPT TWO}",
        "head :6379",
        "head: 6379",
        "he ad:6379",
        "he\x00ad:6379",
        "head/path:6379",
        "user@head:6379",
        "head?x:6379",
        "head#x:6379",
        "::1:6379",
        "[::1]",
        "[]:6379",
        "[::1:6379",
        "::1]:6379",
        "[[::1]]:6379",
        "http://head:8265",
        "ray://",
        "ray://head",
        "ray://ray://head:10001",
        "RAY://head:10001",
        "local",
        "auto",
        "ray://local",
    ],
)
def test_address_is_refused(text: str) -> None:
    """Every other text is `address_invalid`, for an operator to mend; none is taken for a start."""
    with pytest.raises(AttachError) as caught:
        parse_address(text)

    fault = caught.value.fault
    assert (ErrorType.ADDRESS_INVALID, Phase.DISCOVER, Retry.OPERATOR) == (
        fault.type,
        fault.phase,
        fault.retry,
    )


def test_local_address_is_never_parsed() -> None:
    """No text from outside becomes the address that starts a cluster."""
    with pytest.raises(AttachError):
        parse_address(LOCAL.url)


def test_bad_candidate_carries_its_fault() -> None:
    """A bad address is tried and shown like any other, instead of stopping the daemon."""
    bad = candidate("nowhere", "config")

    assert ("nowhere", "config", None) == (bad.text, bad.source, bad.address)
    assert bad.fault is not None
    assert ErrorType.ADDRESS_INVALID is bad.fault.type


@pytest.mark.parametrize(
    ("cli", "env", "config", "expected"),
    [
        ("a:1", "b:2", ["c:3"], [("cli", "a:1")]),
        (None, "b:2", ["c:3"], [("env:RAY_ADDRESS", "b:2")]),
        ("", "", ["c:3", "d:4"], [("config", "c:3"), ("config", "d:4")]),
        (None, None, [], []),
        ("auto", "b:2", ["c:3"], []),
        (None, "auto", ["c:3"], []),
        (None, " auto ", ["c:3"], []),
        (None, None, ["auto"], []),
        (None, None, ["auto", "c:3"], [("config", "c:3")]),
        (None, None, ["c:3", "d:4", " c:3"], [("config", "c:3"), ("config", "d:4")]),
        (None, "nowhere", ["c:3"], [("env:RAY_ADDRESS", "nowhere")]),
    ],
)
def test_first_source_that_names_any_counts(
    cli: str | None, env: str | None, config: list[str], expected: list[tuple[str, str]]
) -> None:
    """Argument before environment before file; `auto` ends the search without a candidate."""
    found = configured(cli, env, config)

    assert expected == [(one.source, one.text) for one in found]
