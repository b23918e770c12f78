"""When to try again. Pure: the shell draws the jitter, the clock is in the events."""

from castrayd.core.policy import BackoffPolicy
from castrayd.errors import Retry

__all__ = ("ceiling_s", "retry_at_s")


def ceiling_s(failures: int, retry: Retry, policy: BackoffPolicy) -> float:
    """The longest wait, in seconds, after `failures` attempts in a row that did not last.

    The first retry comes at once, then the ceiling doubles from `initial_s` to `max_s`. A fault
    that only a person can mend goes straight to the cap.
    """
    if retry is Retry.OPERATOR:
        return policy.max_s
    if failures <= 1:
        return 0.0
    doublings = min(failures - 2, 62)  # beyond, a float of 2**n says nothing and then overflows
    return min(policy.max_s, policy.initial_s * 2.0**doublings)


def retry_at_s(  # noqa: PLR0913  each a number of its own, all by keyword
    *,
    began_s: float,
    ended_s: float,
    failures: int,
    retry: Retry,
    jitter: float,
    policy: BackoffPolicy,
) -> float:
    """When the next attempt begins, in monotonic seconds.

    Measured from the attempt's start, so that a slow failure is not waited for twice, but never
    sooner than the gap after its end.
    """
    wait_s = ceiling_s(failures, retry, policy) * jitter
    return max(began_s + wait_s, ended_s + policy.gap_s)
