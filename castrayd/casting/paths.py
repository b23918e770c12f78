"""Paths of files on casting nodes: `root:relative/path`. Pure; the node itself checks again."""

from typing import Final

from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("basename", "checked")

NAME_BYTES: Final = 255
PATH_BYTES: Final = 4096


def checked(text: str, field: str) -> str:
    """Return a path as it is, when it is one that may be. Raises `ApiError` (`path_forbidden`)."""
    root, sign, relative = text.partition(":")
    if not sign or not root:
        raise ApiError(ApiErrorType.BAD_REQUEST, "ROOT:PATH is expected", field=field)
    parts = relative.split("/")
    fault = None
    if "\0" in text:
        fault = "it holds a NUL"
    elif any(part in {"", ".", ".."} for part in parts):
        fault = "it must be relative, without . or .., and name a file"
    elif any(len(part.encode(errors="surrogateescape")) > NAME_BYTES for part in parts):
        fault = f"a name has at most {NAME_BYTES} bytes"
    elif len(relative.encode(errors="surrogateescape")) > PATH_BYTES:
        fault = f"it has at most {PATH_BYTES} bytes"
    if fault:
        raise ApiError(ApiErrorType.PATH_FORBIDDEN, f"{text[:100]!r}: {fault}", field=field)
    return text


def basename(path: str) -> str:
    """Return the last name of a path."""
    return path.rpartition("/")[2].rpartition(":")[2]
