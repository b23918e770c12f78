"""A log call is cheap; the exact figure is `tests.bench.log`'s."""

import pytest

from castrayd.telemetry.logs import LogFormat
from tests.bench.log import REACH, log_ratio


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.JOURNALD])
def test_log_call_costs_little_more_than_its_text(form: LogFormat) -> None:
    """At most twice what the benchmark allows, for a machine that is busy with other tests."""
    ours_us, bare_us = log_ratio(form)

    assert ours_us / bare_us <= 2 * REACH
