"""What becomes of a transfer by what its nodes say of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from castrayd.casting.plans import SETTLED, Part, Transfer

__all__ = ("again", "anew", "arrived", "cancelled", "failed", "merged", "state_of")


def merged(transfer: Transfer, progress: Mapping[str, Any]) -> Transfer:
    """Take in what the sender says of its part of it."""
    said = {one["recipient"]: one for one in progress["recipients"]}
    parts = tuple(
        _told(part, said[part.recipient]) if part.recipient in said else part
        for part in transfer.parts
    )
    size, sha256 = progress["bytes_total"], progress["sha256"]
    after = replace(
        transfer,
        parts=parts,
        reason=None,
        bytes_total=transfer.bytes_total if size is None else size,
        sha256=sha256 or transfer.sha256,
    )
    if progress["state"] == "running":
        return replace(after, state="running")
    return _summed(after, progress.get("error"))


def _told(part: Part, said: Mapping[str, Any]) -> Part:
    """Take in what is said of a recipient; a new sender does not know at once what it has."""
    verified = said["bytes_verified"]
    return replace(
        part,
        path=said["path"],
        state=said["state"],
        bytes_verified=part.bytes_verified if verified is None else verified,
        bytes_sent=part.sent_before + said["bytes_sent"],
        sha256=said["sha256"],
        error=said["error"],
        skipped=bool(said.get("skipped")),
    )


def _summed(transfer: Transfer, error: Mapping[str, Any] | None) -> Transfer:
    """Give it the state that follows from its recipients, all of which have ended."""
    state = state_of(transfer.parts)
    reason = error["message"] if error and state == "failed" else None
    return replace(transfer, state=state, reason=reason)


def state_of(parts: Sequence[Part]) -> str:
    """Sum up what has become of the recipients, all of which have ended."""
    states = {part.state for part in parts}
    if states == {"done"}:
        return "done"
    if "done" in states:
        return "partial"
    return "cancelled" if states == {"cancelled"} else "failed"


def anew(transfer: Transfer) -> Transfer:
    """Return it as it is when another sender takes it up."""
    parts = tuple(replace(part, sent_before=part.bytes_sent) for part in transfer.parts)
    return replace(transfer, parts=parts)


def arrived(part: Part, result: Mapping[str, Any]) -> Part:
    """Take in that a recipient has published the file, as it says itself."""
    return replace(
        part,
        state="done",
        path=result["path"],
        sha256=result["sha256"],
        bytes_verified=result["bytes"],
        error=None,
    )


def failed(transfer: Transfer, kind: str, reason: str) -> Transfer:
    """End it as a whole: who does not have the file does not get it."""
    parts = _ended(transfer.parts, "failed", {"type": kind, "message": reason})
    state = state_of(parts)
    return replace(transfer, parts=parts, state=state, reason=None if state == "done" else reason)


def cancelled(transfer: Transfer) -> Transfer:
    """End it as nobody wants it any more; it is done where all have it meanwhile."""
    parts = _ended(transfer.parts, "cancelled", {"type": "cancelled", "message": "cancelled"})
    state = "done" if state_of(parts) == "done" else "cancelled"
    return replace(transfer, parts=parts, state=state, reason=None)


def _ended(parts: Sequence[Part], state: str, error: Mapping[str, str]) -> tuple[Part, ...]:
    return tuple(
        part if part.state in SETTLED else replace(part, state=state, error=error) for part in parts
    )


def again(transfer: Transfer) -> Transfer:
    """Return it as it begins again with those that do not have it."""
    parts = tuple(p if p.state == "done" else Part(p.recipient) for p in transfer.parts)
    return replace(transfer, parts=parts, state="queued", reason=None, finished_at=None)
