"""How the attachment stands, in one plain line: what a service manager shows of us."""

from castrayd.core.states import Desired, State
from castrayd.errors import Fault, Retry
from castrayd.supervisor.documents import Status

__all__ = ("headline",)


def headline(status: Status) -> str:
    """Say it as shortly as it can be said truly; times are absolute, for the line stands long."""
    match status.state:
        case State.CONNECTED:
            nodes = status.cluster.nodes_alive if status.cluster else 0
            return f"connected to {_where(status)}, {nodes} nodes alive"
        case State.DEGRADED:
            return f"degraded at {_where(status)}{_why(next(iter(status.reasons), None))}"
        case State.DISCOVERING:
            attempt = status.attempt
            number = f", attempt {attempt.number} ({attempt.trigger})" if attempt else ""
            return f"discovering{number}{_why(status.error)}"
        case State.DISCONNECTED:
            return f"disconnected{_next(status)}{_why(status.error)}"


def _where(status: Status) -> str:
    address = status.address
    return f"{address.url} ({address.source})" if address else "a cluster"


def _why(fault: Fault | None) -> str:
    if fault is None:
        return ""
    remedy = f" - {fault.hint}" if fault.retry is Retry.OPERATOR else ""
    return f": {fault.type}: {fault.message}{remedy}"


def _next(status: Status) -> str:
    if status.desired is Desired.PAUSED:
        return f", paused by {status.desired_by}" if status.desired_by else ", paused"
    return f", next attempt at {status.next_retry_at[:19]}Z" if status.next_retry_at else ""
