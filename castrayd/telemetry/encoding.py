"""JSON of what is said to others, which never fails on what is no text.

Used by the log, the history and the control API. Bytes of an environment or of an argument that
are no UTF-8 come to Python as lone surrogates, which no JSON may hold: they are shown as "?".
"""

import json
from typing import Final

import msgspec

__all__ = ("to_json",)

_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


def to_json(document: object) -> bytes:
    """Encode a document; values that JSON does not know are written as their text."""
    try:
        return _ENCODER.encode(document)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(document, enc_hook=str)
        return json.dumps(plain, ensure_ascii=False).encode(errors="replace")
