"""One rendering of status serves many, and never hides what has happened."""

from dataclasses import replace
from typing import Any, cast

import pytest

from castrayd.control.rendered import FRESH_S, RenderedStatus
from castrayd.core.snapshot import Snapshot
from castrayd.supervisor.service import AttachmentService
from castrayd.telemetry.events import EventLog


class _Service:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.snapshot = Snapshot("run")
        self.events = EventLog("stream", 1)
        self.asked = 0

    def status(self) -> dict[str, int]:
        self.asked += 1
        return {"asked": self.asked}


@pytest.fixture
def service() -> _Service:
    return _Service()


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def status(service: _Service, clock: list[float]) -> RenderedStatus:
    return RenderedStatus(cast("AttachmentService", cast("Any", service)), lambda: clock[0])


def test_asked_again_at_once_is_the_same_rendering(status: RenderedStatus) -> None:
    """Who asks at the same time gets the same document."""
    assert b'{"asked":1}' == status.body() == status.body()


def test_asked_later_is_rendered_anew(status: RenderedStatus, clock: list[float]) -> None:
    """Stop-watches are never older than the freshness."""
    status.body()
    clock[0] += FRESH_S

    assert b'{"asked":2}' == status.body()


def test_another_snapshot_is_rendered_anew(status: RenderedStatus, service: _Service) -> None:
    """A change of state shows at once."""
    status.body()
    service.snapshot = replace(service.snapshot, epoch=1)

    assert b'{"asked":2}' == status.body()


def test_an_event_renders_anew(status: RenderedStatus, service: _Service) -> None:
    """What was published shows at once: nodes, settings."""
    status.body()
    service.events.append("2026-01-01T00:00:00Z", "castray.nodes.changed", {})

    assert b'{"asked":2}' == status.body()


def test_forgotten_is_rendered_anew(status: RenderedStatus) -> None:
    """Whoever wrote reads what was written."""
    status.body()
    status.forget()

    assert b'{"asked":2}' == status.body()
