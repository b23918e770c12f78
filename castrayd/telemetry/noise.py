"""Which failed attempts are worth a line at info: a long outage must not flood the journal."""

from typing import Final

__all__ = ("NoiseGate",)

REMIND_S: Final = 600.0
"""However long an outage lasts, it is mentioned at least this often."""


class NoiseGate:
    """Lets through the 1st, 2nd, 4th, 8th failure of a run, changes of class, one each 10 min."""

    def __init__(self) -> None:
        self._failures = 0
        self._type: str | None = None
        self._shown_s = 0.0
        self._suppressed = 0
        self.changed = False
        """Whether the last failure was of another class than the one before it."""

    def success(self) -> None:
        """End the run of failures."""
        self.__init__()  # type: ignore[misc]  # a run that ends leaves nothing behind

    def failure(self, error_type: str, at_s: float) -> int | None:
        """Count one failure; returns how many were suppressed before it, None to suppress it."""
        self._failures += 1
        self.changed = error_type != self._type
        power_of_two = self._failures & (self._failures - 1) == 0
        if not power_of_two and error_type == self._type and at_s - self._shown_s < REMIND_S:
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        self._type, self._shown_s = error_type, at_s
        return suppressed
