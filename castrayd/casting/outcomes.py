"""What becomes of a transfer by what its nodes say of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from castrayd.casting.plans import SETTLED, Part, Transfer

__all__ = ("again", "anew", "arrived", "cancelled", "failed", "merged", "state_of")

_CHANGED: Final = "the source is another file than the one that this transfer began with"


def merged(transfer: Transfer, progress: Mapping[str, Any]) -> Transfer:
    """Take in what the sender says of its part of it.

    What was first told of the file holds. Where another one has taken its place, those that do not
    have the first one have failed.
    """
    said = {one["recipient"]: one for one in progress["recipients"]}
    parts = tuple(
        _told(part, said[part.recipient]) if part.recipient in said else part
        for part in transfer.parts
    )
    seen = _identity(progress)
    known = {key: _first(getattr(transfer, key), value) for key, value in seen.items()}
    known["sha256"] = _first(transfer.sha256, *(p.sha256 for p in parts), seen["sha256"])
    parts = tuple(_judged(part, known["sha256"]) for part in parts)
    after = replace(transfer, parts=parts, reason=None, **known)
    if any(value not in {None, known[key]} for key, value in seen.items()):
        return failed(after, "source_changed", _CHANGED)
    if progress["state"] == "running":
        return replace(after, state="running")
    return _summed(after, progress.get("error"))


def _identity(progress: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sender knows of the file; not every one tells of its times."""
    times = progress.get("identity") or {}
    return {
        "bytes_total": progress["bytes_total"],
        "mtime_ns": times.get("mtime_ns"),
        "sha256": progress["sha256"],
    }


def _first(*values: Any) -> Any:  # noqa: ANN401  of any type
    return next((value for value in values if value is not None), None)


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


def _judged(part: Part, sha256: str | None) -> Part:
    """Deny that a recipient has the file which has another one."""
    if part.state != "done" or sha256 is None or part.sha256 in {None, sha256}:
        return part
    return replace(part, state="failed", error={"type": "source_changed", "message": _CHANGED})


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
        skipped=bool(result.get("skipped")),
        error=None,
    )


def failed(transfer: Transfer, kind: str, reason: str) -> Transfer:
    """End it as a whole: who does not have the file does not get it."""
    parts = _ended(transfer.parts, "failed", {"type": kind, "message": reason})
    state = state_of(parts)
    return replace(transfer, parts=parts, state=state, reason=None if state == "done" else reason)


def cancelled(transfer: Transfer) -> Transfer:
    """End it as nobody wants it any more; it is done where all have it meanwhile."""
    judged = tuple(_judged(part, transfer.sha256) for part in transfer.parts)
    parts = _ended(judged, "cancelled", {"type": "cancelled", "message": "cancelled"})
    state = "done" if state_of(parts) == "done" else "cancelled"
    return replace(transfer, parts=parts, state=state, reason=None)


def _ended(parts: Sequence[Part], state: str, error: Mapping[str, str]) -> tuple[Part, ...]:
    return tuple(
        part if part.state in SETTLED else replace(part, state=state, error=error) for part in parts
    )


def again(transfer: Transfer) -> Transfer:
    """Return it as it begins again with those that do not have it.

    Where nobody has it yet, it may be another file by now.
    """
    parts = tuple(p if p.state == "done" else Part(p.recipient) for p in transfer.parts)
    after = replace(transfer, parts=parts, state="queued", reason=None, finished_at=None)
    if any(part.state == "done" for part in parts):
        return after
    return replace(after, bytes_total=None, mtime_ns=None, sha256=None)
