"""What operators ask for, in every state: DESIGN's sequences 1, 2, 3 and 8, as the core plays them.

What a request answers to its caller (409, `joined`) is told from the two snapshots of its step.
"""

from collections.abc import Callable

import pytest

from castrayd.core.commands import (
    EndSession,
    RunAttempt,
    Slot,
    WaitRetry,
    WaitSettle,
    WatchReturn,
    WatchSession,
)
from castrayd.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    ConfigReloaded,
    PauseRequested,
    ReconnectRequested,
    ResumeRequested,
    RetryDue,
    SessionEnded,
    Started,
    StopRequested,
)
from castrayd.core.health import Check
from castrayd.core.snapshot import Snapshot
from castrayd.core.states import Desired, State, Trigger
from castrayd.errors import ErrorType
from tests.unit.test_core_playbook import (
    Playbook,
    attached,
    bad,
    failure,
    order,
    tell,
)

REFUSED = failure(ErrorType.TCP_REFUSED)


def trying() -> Playbook:
    return Playbook() >> tell(Started) << order(RunAttempt)


def waiting() -> Playbook:
    book = trying() >> tell(AttemptFailed, fault=REFUSED)
    return book << order(WaitRetry) << order(WatchReturn)


def degraded() -> Playbook:
    return attached() >> bad(Check.GCS, ErrorType.CONTROL_PLANE_LOST) << order_grace()


def replacing() -> Playbook:
    return attached() >> bad(Check.RAYLET, ErrorType.LOCAL_NODE_LOST) << order(EndSession)


def superseding() -> Playbook:
    return trying() >> tell(ReconnectRequested, address="b:2") << order(EndSession)


def renewing() -> Playbook:
    return attached() >> tell(ReconnectRequested) << order(EndSession)


def pausing() -> Playbook:
    return attached() >> tell(PauseRequested) << order(EndSession)


def paused() -> Playbook:
    return pausing() >> tell(SessionEnded)


def order_grace():  # noqa: ANN201
    raise NotImplementedError
