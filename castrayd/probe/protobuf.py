"""Just enough of the protobuf wire format to read one field of an answer. Pure.

Used by `peer`. Source: protobuf.dev/programming-guides/encoding. A message that cannot be read
yields None: the calls that use this are Ray's own protocol and no promise. The bytes come from a
stranger, so reading takes time linear in their number, whatever they are.
"""

from typing import Final

__all__ = ("bytes_field", "varint_field")

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_WIDTHS: Final = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES: Final = 10
"""The longest varint, 64 bits in groups of seven; without this bound reading one is quadratic."""


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
    """Return the varint at `at` and where it ends. Raises IndexError when it does not end."""
    value = 0
    for group in range(_VARINT_BYTES):
        byte = message[at + group]
        value |= (byte & 0x7F) << (7 * group)
        if not byte & 0x80:
            return value, at + group + 1
    raise IndexError(at)
