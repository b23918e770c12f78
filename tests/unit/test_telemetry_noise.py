"""The noise policy: what of a long outage is worth a line at info."""

from castrayd.telemetry.noise import REMIND_S, NoiseGate


def test_failures_are_shown_at_powers_of_two() -> None:
    """The 1st, 2nd, 4th and 8th failure of a run are shown, with the number of those between."""
    gate = NoiseGate()

    shown = [gate.failure("tcp_refused", at_s=float(n)) for n in range(1, 9)]

    assert [0, 0, None, 0 + 1, None, None, None, 3] == shown


def test_change_of_class_is_always_shown() -> None:
    """A new cause is news, whatever the count."""
    gate = NoiseGate()
    for n in range(5):
        gate.failure("tcp_refused", at_s=float(n))

    assert gate.failure("tcp_timeout", at_s=6.0) == 1
    assert gate.failure("tcp_timeout", at_s=7.0) is None


def test_long_outage_is_mentioned_every_ten_minutes() -> None:
    """An outage of a day stays visible without flooding."""
    gate = NoiseGate()
    shown = [gate.failure("tcp_refused", at_s=60.0 * n) for n in range(24 * 60)]

    lines = [line for line in shown if line is not None]
    assert 24 * 60 / (REMIND_S / 60) <= len(lines) <= 160


def test_success_ends_the_run() -> None:
    """After a success the next failure is the first again."""
    gate = NoiseGate()
    for n in range(3):
        gate.failure("tcp_refused", at_s=float(n))
    gate.success()

    assert gate.failure("tcp_refused", at_s=4.0) == 0
