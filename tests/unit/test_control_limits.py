"""The token bucket, on a clock of the test's own."""

from castrayd.control.limits import RateLimit


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_burst_then_one_a_second() -> None:
    """Five at once, then the wait that is left is told, then one for each second."""
    clock = _Clock()
    limit = RateLimit(5, 1.0, clock)

    assert [None] * 5 == [limit.take() for _ in range(5)]
    assert limit.take() == 1.0
    clock.now_s += 0.75
    assert limit.take() == 0.25
    clock.now_s += 0.25
    assert limit.take() is None
    assert limit.take() == 1.0


def test_rest_refills_no_more_than_the_burst() -> None:
    """An hour of silence allows five again, not 3,600."""
    clock = _Clock()
    limit = RateLimit(5, 1.0, clock)
    clock.now_s += 3600

    assert 5 == sum(limit.take() is None for _ in range(10))
