"""One fact, one event, one name: numbers it, puts it into the stream and writes its log line.

The supervisor tells it what happened. Keys in the stream are plain, keys in the log are dotted
(OpenTelemetry's where it has them); the line's `event.sequence` is the event's `seq`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Protocol

import structlog

from castrayd.core.states import Outcome, State
from castrayd.errors import Fault, Retry
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import EventLog
from castrayd.telemetry.noise import NoiseGate

__all__ = ("AttemptFact", "Publisher")

log = structlog.get_logger("castrayd")


class AttemptFact(Protocol):
    """What is told of an attempt: the API's document of it has it all."""

    @property
    def id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def trigger(self) -> str: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def phases(self) -> Mapping[str, float]: ...
    @property
    def error(self) -> Fault | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def source(self) -> str | None: ...


class Publisher:
    """Publishes facts; never waits and never raises."""

    def __init__(self, events: EventLog, clock: Clock) -> None:
        self.events = events
        self._clock = clock
        self._noise = NoiseGate()

    def state_changed(
        self, source: State, target: State, trigger: str, reasons: Sequence[Fault]
    ) -> None:
        """The state machine has changed its state."""
        plain = {"from": source, "to": target, "trigger": trigger, "reasons": list(reasons)}
        why = f": {reasons[0].type}: {reasons[0].message}" if reasons else ""
        level = "warning" if target is State.DEGRADED else "info"
        if {source, target} == _TRYING:
            level = "debug"  # the attempt has a line of its own
        keys = {"castray.state.from": source, "castray.state.to": target, **_error_keys(reasons)}
        self._tell(
            "castray.state.changed", plain, level, f"{source} -> {target} ({trigger}){why}", keys
        )

    def attempt_finished(
        self, attempt: AttemptFact, retry_at: str | None, retry_in_s: float | None
    ) -> None:
        """An attempt has succeeded or failed."""
        plain = {**_plain(attempt), "next_retry_at": retry_at}
        keys = _attempt_keys(attempt)
        if attempt.error is None:
            self._noise.success()
            self._tell(_ATTEMPT, plain, "info", _success_message(attempt), keys)
            return
        shown = self._noise.failure(attempt.error.type, self._clock.monotonic())
        if retry_at is not None:
            keys |= {"castray.backoff.delay_s": retry_in_s, "castray.backoff.next_at": retry_at}
        if shown:
            keys["log.suppressed"] = shown
        level = "debug" if shown is None else "warning"
        self._tell(_ATTEMPT, plain, level, _failure_message(attempt, retry_in_s, shown), keys)

    def attempt_cancelled(self, attempt: AttemptFact) -> None:
        """An attempt was called off."""
        message = f"attempt {attempt.number} cancelled after {attempt.duration_s:.3f} s"
        self._tell(_ATTEMPT, _plain(attempt), "debug", message, _attempt_keys(attempt))

    def connection_lost(self, session_s: float, fault: Fault | None) -> None:
        """An attachment has ended."""
        faults = (fault,) if fault else ()
        why = f": {fault.type}: {fault.message}" if fault else ""
        plain = {"session_duration_s": session_s, "error": fault}
        keys = {"castray.session.duration_s": session_s, **_error_keys(faults)}
        level = "warning" if fault else "info"
        message = f"connection ended after {session_s:.1f} s{why}"
        self._tell("castray.connection.lost", plain, level, message, keys)

    def config_reloaded(self, plain: Mapping[str, Any], message: str, level: str = "info") -> None:
        """New settings were taken, or refused."""
        self._tell("castray.config.reloaded", plain, level, message, {})

    def nodes_changed(
        self, joined: Sequence[str], died: Sequence[str], alive: int, dead: int
    ) -> None:
        """The node map has changed."""
        plain = {"joined": list(joined), "died": list(died), "alive": alive, "dead": dead}
        message = f"nodes changed: {len(joined)} joined, {len(died)} died, {alive} alive"
        keys = {"ray.nodes.alive": alive, "ray.nodes.dead": dead}
        self._tell("castray.nodes.changed", plain, "info", message, keys)

    def session_output(self, session_id: str, stream: str, text: str) -> None:
        """The session's process has said something."""
        plain = {"session_id": session_id, "stream": stream, "text": text}
        keys = {"castray.session.id": session_id, "castray.session.stream": stream}
        level = "info" if stream == "stderr" else "debug"  # Ray dumps whole logs to stdout
        self._tell("castray.session.output", plain, level, f"session: {text}", keys)

    def internal(self, fault: Fault) -> None:
        """A bug was survived; to be called while its exception is handled."""
        keys = {"exc_info": True, **_error_keys((fault,))}
        plain = {"error": fault}
        self._tell("castray.internal", plain, "error", f"internal: {fault.message}", keys)

    def _tell(
        self,
        name: str,
        plain: Mapping[str, Any],
        level: str,
        message: str,
        keys: Mapping[str, Any],
    ) -> None:
        item = self.events.append(self._clock.now(), name, plain)
        write: Callable[..., None] = getattr(log, level)
        write(message, **{"event.name": name, "event.sequence": item["seq"], **keys})


_TRYING: Final = {State.DISCONNECTED, State.DISCOVERING}

_ATTEMPT: Final = "castray.connection.attempt"


def _plain(attempt: AttemptFact) -> dict[str, Any]:
    """Return the attempt's document as a dictionary, without a copy of what is in it."""
    return {field.name: getattr(attempt, field.name) for field in fields(attempt)}  # type: ignore[arg-type]


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


def _attempt_keys(attempt: AttemptFact) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "event.outcome": _OUTCOMES.get(attempt.outcome, "unknown"),
        "castray.attempt.id": attempt.id,
        "castray.attempt.number": attempt.number,
        "castray.attempt.trigger": attempt.trigger,
        "castray.attempt.duration_s": attempt.duration_s,
        **{f"castray.phase.{name}_s": seconds for name, seconds in attempt.phases.items()},
    }
    if attempt.address is not None:
        keys |= {"server.address": attempt.address, "castray.address.source": attempt.source}
    if attempt.error is not None:
        keys |= {"castray.phase.failed": attempt.error.phase, **_error_keys((attempt.error,))}
    return keys


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
