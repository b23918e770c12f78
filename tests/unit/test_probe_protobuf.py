"""The reader of protobuf fields: right on Ray's answers, and harmless on anything else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castrayd.probe.protobuf import bytes_field, varint_field


def test_health_answer_is_read() -> None:
    """`08 01` is status SERVING."""
    assert varint_field(b"\x08\x01", 1) == 1


def test_field_behind_others_is_read() -> None:
    """Fields of every wire type before it are skipped."""
    before = b"\x08\xac\x02" + b"\x19" + b"8" * 8 + b"\x25" + b"4" * 4 + b"\x32\x01x"
    assert bytes_field(before + b"\x12\x062.60.0", 2) == b"2.60.0"


def test_last_of_a_repeated_field_counts() -> None:
    """So the encoding says of a field that is not repeated in the schema."""
    assert bytes_field(b"\x12\x01a\x12\x01b", 2) == b"b"


@pytest.mark.parametrize(
    "message", [b"", b"\x12\x05ab", b"\x12", b"\x13", b"\x08\xff", b"\xff" * 11]
)
def test_garbage_is_unknown(message: bytes) -> None:
    """Cut short, of an unknown wire type, or without an end: nothing is read, nothing raised."""
    assert bytes_field(message, 2) is None
    assert varint_field(message, 1) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(message: bytes) -> None:
    """A stranger's answer never raises."""
    bytes_field(message, 2)


def test_endless_varint_costs_nothing() -> None:
    """Megabytes without an end are refused after ten bytes: the loop must not stand still."""
    began_s = time.perf_counter()
    assert bytes_field(b"\xff" * 4_000_000, 2) is None
    assert time.perf_counter() - began_s < 0.1
