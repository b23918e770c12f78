"""A sleep that another task can cut short. Used by the checks of an attachment."""

import anyio

__all__ = ("Bell",)


class Bell:
    """One sleeper, any number of ringers. A ring while nobody sleeps ends the next sleep."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Wake the sleeper."""
        self._rung.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep so long, or until the bell rings."""
        with anyio.move_on_after(seconds):
            await self._rung.wait()
        self._rung = anyio.Event()
