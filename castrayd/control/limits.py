"""A token bucket: how often something may be asked for. Reads the clock that it is given."""

from collections.abc import Callable

__all__ = ("RateLimit",)


class RateLimit:
    """Allows `burst` at once and `per_s` a second after that."""

    def __init__(self, burst: int, per_s: float, now: Callable[[], float]) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._now = now
        self._tokens = float(burst)
        self._filled_s = now()

    def take(self) -> float | None:
        """Take one; returns None when allowed, else the seconds until it will be."""
        now_s = self._now()
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        return (1 - self._tokens) / self._per_s
