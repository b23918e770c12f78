"""How quickly something goes: over the last few seconds, not since its beginning."""

from collections import deque
from typing import Final

__all__ = ("Speed",)

SPAN_S: Final = 5.0


class Speed:
    """Of one count, looked at now and then. Where it falls, something is lost: it begins anew."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def add(self, at_s: float, count: int) -> None:
        """Note what the count is at an instant of a monotonic clock."""
        if self._looks and count < self._looks[-1][1]:
            self._looks.clear()
        self._looks.append((at_s, count))
        while len(self._looks) > 2 and at_s - self._looks[1][0] > SPAN_S:  # noqa: PLR2004
            self._looks.popleft()

    def rate(self) -> float | None:
        """Return the change a second; None while there is nothing to tell it from."""
        if len(self._looks) < 2:  # noqa: PLR2004  two looks make a difference
            return None
        (from_s, first), (to_s, last) = self._looks[0], self._looks[-1]
        return (last - first) / (to_s - from_s) if to_s > from_s else None
