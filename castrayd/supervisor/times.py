"""How often and how long each state was held."""

from castrayd.core.states import State
from castrayd.supervisor.documents import StateDocument
from castrayd.telemetry.clock import Clock

__all__ = ("StateTimes",)


class StateTimes:
    """Counts entries into states and the seconds spent there, since the daemon's start."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._clock = clock
        self._state = state
        self._entered_s = clock.monotonic()
        self._counts = dict.fromkeys(State, 0)
        self._totals_s = dict.fromkeys(State, 0.0)
        self._last_at: dict[State, str | None] = dict.fromkeys(State)
        self._note(state)

    def enter(self, state: State) -> None:
        """Note that another state was entered, now."""
        now_s = self._clock.monotonic()
        self._totals_s[self._state] += now_s - self._entered_s
        self._state, self._entered_s = state, now_s
        self._note(state)

    def _note(self, state: State) -> None:
        self._counts[state] += 1
        self._last_at[state] = self._clock.now()

    def document(self) -> dict[str, StateDocument]:
        """Return count, seconds (the present stay included) and last entry of every state."""
        running_s = self._clock.monotonic() - self._entered_s
        return {
            state.value: StateDocument(
                self._counts[state],
                self._totals_s[state] + (running_s if state is self._state else 0.0),
                self._last_at[state],
            )
            for state in State
        }
