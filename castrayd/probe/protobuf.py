"""Just enough of the protobuf wire format to read one field of an answer. Pure.

Source: protobuf.dev/programming-guides/encoding. A message that cannot be read yields None: the
calls that use this are Ray's own protocol and no promise.
"""

from typing import Final

__all__ = ("bytes_field", "varint_field")

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_WIDTHS: Final = {_FIXED64: 8, _FIXED32: 4}


def bytes_field(message: bytes, number: int) -> bytes | None:
    """Return the last length-delimited field `number`; None where there is none, or garbage."""
    value = _fields(message).get((number, _BYTES))
    return value if isinstance(value, bytes) else None


def varint_field(message: bytes, number: int) -> int | None:
    """Return the last varint field `number`; None where there is none, or garbage."""
    value = _fields(message).get((number, _VARINT))
    return value if isinstance(value, int) else None


def _fields(message: bytes) -> dict[tuple[int, int], bytes | int]:
    fields: dict[tuple[int, int], bytes | int] = {}
    at = 0
    try:
        while at < len(message):
            key, at = _varint(message, at)
            kind = key & 7
            value: bytes | int
            if kind == _VARINT:
                value, at = _varint(message, at)
            else:
                size, at = _varint(message, at) if kind == _BYTES else (_WIDTHS[kind], at)
                if at + size > len(message):
                    return {}
                value, at = message[at : at + size], at + size
            fields[key >> 3, kind] = value
    except (IndexError, KeyError):
        return {}
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
