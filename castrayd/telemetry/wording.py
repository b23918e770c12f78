"""How a fact reads in the log: level, message and dotted keys (OpenTelemetry's where it has them).

`publisher` alone uses it. Which failed attempts are worth a line at all is `noise`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from castrayd.core.candidates import parse_address
from castrayd.core.states import Outcome, State
from castrayd.errors import AttachError, Fault, Retry
from castrayd.telemetry.facts import (
    AttemptEnded,
    AttemptFact,
    CasterLost,
    CasterReady,
    CastFinished,
    ConfigReloaded,
    ConnectionLost,
    DesiredChanged,
    Fact,
    InternalFault,
    NodesChanged,
    SessionOutput,
    StateChanged,
    TransferFinished,
    TransferProgress,
    TransferStarted,
)
from castrayd.telemetry.noise import NoiseGate

__all__ = ("Line", "Wording", "place_keys")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log, without what every line has."""

    level: str
    message: str
    keys: Mapping[str, Any] = field(default_factory=dict)


class Wording:
    """Puts facts into words; remembers which failures it has told of."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._noise = NoiseGate()

    def line(self, fact: Fact) -> Line:  # noqa: C901, PLR0911  one a fact
        """Return the line of a fact; each fact is put into words once."""
        match fact:
            case StateChanged():
                return _state(fact)
            case DesiredChanged():
                return _desired(fact)
            case AttemptEnded():
                return self._attempt(fact)
            case ConnectionLost():
                return _lost(fact)
            case ConfigReloaded():
                return _reloaded(fact)
            case NodesChanged():
                return _nodes(fact)
            case CasterReady() | CasterLost():
                return _caster(fact)
            case CastFinished():
                return _cast(fact)
            case TransferStarted() | TransferProgress() | TransferFinished():
                return _transfer(fact)
            case SessionOutput():
                return _output(fact)
            case InternalFault():
                keys = {"exc_info": True, **_error_keys((fact.error,))}
                return Line("error", f"internal: {fact.error.message}", keys)
            case _:
                assert_never(fact)

    def _attempt(self, fact: AttemptEnded) -> Line:
        attempt, keys = fact.attempt, _attempt_keys(fact)
        if attempt.outcome is Outcome.CANCELLED:
            message = f"attempt {attempt.number} cancelled after {attempt.duration_s:.3f} s"
            return Line("debug", message, keys)
        if attempt.error is None:
            self._noise.success()
            return Line("info", _success_message(attempt), keys)
        shown = self._noise.failure(attempt.error.type, self._monotonic())
        if shown:
            keys["log.suppressed"] = shown
        level = "debug" if shown is None else "warning"
        if attempt.error.retry is Retry.OPERATOR and self._noise.changed:
            level = "error"  # once: time will not mend it
        return Line(level, _failure_message(attempt, fact.next_retry_in_s, shown), keys)


def _state(fact: StateChanged) -> Line:
    level = "warning" if fact.target is State.DEGRADED else "info"
    if {fact.source, fact.target} == _TRYING:
        level = "debug"  # the attempt has a line of its own
    keys = {
        "castray.state.from": fact.source,
        "castray.state.to": fact.target,
        "castray.desired": fact.desired,
    }
    message = f"{fact.source} -> {fact.target} ({fact.trigger}){_why(fact.reasons)}"
    return Line(level, message, {**keys, **_error_keys(fact.reasons)})


def _desired(fact: DesiredChanged) -> Line:
    why = f": {fact.reason}" if fact.reason else ""
    message = f"wanted by {fact.by}: {fact.desired}{why}"
    return Line("info", message, {"castray.desired": fact.desired, "castray.desired.by": fact.by})


_TRYING: Final = {State.DISCONNECTED, State.DISCOVERING}


def _lost(fact: ConnectionLost) -> Line:
    faults = (fact.error,) if fact.error else ()
    keys = {"castray.session.duration_s": fact.session_duration_s, **_error_keys(faults)}
    message = f"connection ended after {fact.session_duration_s:.1f} s{_why(faults)}"
    return Line("warning" if faults else "info", message, keys)


def _reloaded(fact: ConfigReloaded) -> Line:
    if fact.error is not None:
        return Line("error", f"settings refused: {fact.error}")
    return Line("info", f"settings reloaded: {', '.join(fact.changed) or 'as before'}")


def _nodes(fact: NodesChanged) -> Line:
    joined, died = len(fact.joined), len(fact.died)
    message = f"nodes changed: {joined} joined, {died} died, {fact.alive} alive"
    return Line("info", message, {"ray.nodes.alive": fact.alive, "ray.nodes.dead": fact.dead})


def _output(fact: SessionOutput) -> Line:
    level = "info" if fact.stream == "stderr" else "debug"  # Ray dumps whole logs to stdout
    keys = {"castray.session.id": fact.session_id, "castray.session.stream": fact.stream}
    return Line(level, f"session: {fact.text}", keys)


def _why(faults: Sequence[Fault]) -> str:
    return f": {faults[0].type}: {faults[0].message}" if faults else ""


def _error_keys(faults: Sequence[Fault]) -> dict[str, Any]:
    if not faults:
        return {}
    fault = faults[0]
    keys: dict[str, Any] = {
        "error.type": fault.type,
        "error.message": fault.message,
        "error.retry": fault.retry,
        "error.hint": fault.hint,
    }
    return keys | ({"error.code": fault.code} if fault.code else {})


_OUTCOMES: Final[Mapping[Outcome | None, str]] = {
    Outcome.SUCCESS: "success",
    Outcome.FAILURE: "failure",
    Outcome.CANCELLED: "unknown",
}
"""ECS knows no cancelled outcome."""


def _attempt_keys(fact: AttemptEnded) -> dict[str, Any]:
    attempt = fact.attempt
    keys: dict[str, Any] = {
        "event.outcome": _OUTCOMES.get(attempt.outcome, "unknown"),
        "castray.attempt.id": attempt.id,
        "castray.attempt.number": attempt.number,
        "castray.attempt.trigger": attempt.trigger,
        "castray.attempt.duration_s": attempt.duration_s,
        "castray.desired": fact.desired,
        **{f"castray.phase.{name}_s": seconds for name, seconds in attempt.phases.items()},
    }
    if attempt.address is not None:
        keys |= {**place_keys("server", attempt.address), "castray.address.source": attempt.source}
    if (peer := attempt.seen.get("connected_to")) is not None:
        keys |= {**place_keys("network.peer", peer), "network.transport": "tcp"}
        keys["network.type"] = "ipv6" if peer.startswith("[") else "ipv4"
    keys |= {key: attempt.seen[name] for name, key in _SEEN.items() if attempt.seen.get(name)}
    if attempt.error is not None:
        keys |= {"castray.phase.failed": attempt.error.phase, **_error_keys((attempt.error,))}
    if fact.next_retry_at is not None:
        keys["castray.backoff.delay_s"] = fact.next_retry_in_s
        keys["castray.backoff.next_at"] = fact.next_retry_at
    if fact.ceiling_s is not None:
        keys["castray.backoff.ceiling_s"] = fact.ceiling_s
    if fact.outage_s is not None:
        keys["castray.outage.duration_s"] = fact.outage_s
    return keys


_SEEN: Final[Mapping[str, str]] = {
    "cluster_id": "ray.cluster.id",
    "session_name": "ray.session.name",
    "ray_there": "ray.version",
    "ray_here": "ray.version.local",
}


def place_keys(prefix: str, text: str) -> dict[str, Any]:
    """Return OpenTelemetry's keys of an address; what is none is told as it is."""
    try:
        place = parse_address(text)
    except AttachError:
        return {f"{prefix}.address": text}
    return {f"{prefix}.address": place.host, f"{prefix}.port": place.port}


def _target(attempt: AttemptFact) -> str:
    return "no address" if attempt.address is None else f"{attempt.address} ({attempt.source})"


def _success_message(attempt: AttemptFact) -> str:
    phases = " ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in attempt.phases.items())
    return f"attached to {_target(attempt)} in {attempt.duration_s:.3f} s (ms: {phases})"


def _failure_message(attempt: AttemptFact, retry_in_s: float | None, shown: int | None) -> str:
    error = attempt.error
    assert error is not None  # noqa: S101  called for failures alone
    parts = [f"attempt {attempt.number} to {_target(attempt)} failed in {error.phase}:"]
    parts.append(f"{error.type}: {error.message}")
    if retry_in_s is not None:
        parts.append(f"(next in {retry_in_s:.1f} s)")
    if error.retry is Retry.OPERATOR:
        parts.append(f"- {error.hint}")
    if shown:
        parts.append(f"[{shown} like it not shown]")
    return " ".join(parts)


def _caster(fact: CasterReady | CasterLost) -> Line:
    keys = {"castray.caster": fact.caster}
    if isinstance(fact, CasterLost):
        return Line("warning", f"casting node {fact.caster} is not there: {fact.reason}", keys)
    keys["ray.node.id"] = fact.node_id
    return Line("info", f"casting node {fact.caster} is ready on {fact.address}", keys)


def _cast(fact: CastFinished) -> Line:
    """A message that came is no news; one that did not is worth a line."""
    keys = {
        "castray.cast.id": fact.id,
        "castray.cast.sender": fact.sender,
        "castray.cast.delivered": fact.delivered,
        "castray.cast.failed": fact.failed,
        "castray.cast.duration_s": fact.duration_s,
    }
    if not fact.failed:
        return Line("debug", f"message {fact.id} reached {fact.delivered}", keys)
    bad = {name: what for name, what in fact.outcomes.items() if what not in _GOOD}
    missed = ", ".join(f"{name} {what}" for name, what in bad.items())
    return Line("warning", f"message {fact.id} missed {fact.failed}: {missed}"[:1024], keys)


_GOOD: Final = frozenset({"delivered", "sent"})


def _transfer(fact: TransferStarted | TransferProgress | TransferFinished) -> Line:
    keys: dict[str, Any] = {"castray.transfer.id": fact.id}
    match fact:
        case TransferStarted():
            keys["castray.caster"] = fact.sender
            message = f"transfer {fact.id} of {fact.sender} to {', '.join(fact.recipients)}"
            return Line("info", message[:1024], keys)
        case TransferProgress():
            keys["castray.transfer.bytes"] = fact.bytes_verified
            return Line("debug", f"transfer {fact.id} {fact.state}", keys)
        case TransferFinished():
            keys |= {
                "castray.transfer.state": fact.state,
                "castray.transfer.bytes": fact.bytes_verified,
            }
            ends = ", ".join(f"{name} {what}" for name, what in fact.outcomes.items())
            level = "info" if fact.state in {"done", "cancelled"} else "warning"
            return Line(level, f"transfer {fact.id} {fact.state}: {ends}"[:1024], keys)
