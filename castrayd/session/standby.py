"""The session that stands by: spawned, ray imported, attached to nothing.

An attempt that takes it pays for `ray.init` alone. It is thrown away when what a session would
be started with now differs from what it was started with.
"""

from collections.abc import Callable

import anyio
import structlog
from anyio.abc import TaskGroup

from castrayd.errors import AttachError
from castrayd.session.launch import LaunchSpec
from castrayd.session.session import Session

__all__ = ("Standby",)

log = structlog.get_logger("castrayd.session")


class Standby:
    """Holds at most one session, in the task group that it is given."""

    def __init__(self, tasks: TaskGroup, make: Callable[[LaunchSpec], Session]) -> None:
        self._tasks = tasks
        self._make = make
        self._session: Session | None = None
        self._ready = anyio.Event()

    def ensure(self, spec: LaunchSpec) -> None:
        """See to it that a session of `spec` stands by, soon; never waits."""
        old = self._session
        if old is not None and old.spec == spec and old.exit is None:
            return
        self._session, self._ready = self._make(spec), anyio.Event()
        self._tasks.start_soon(self._run, self._session, self._ready, name="standby")
        if old is not None:
            self._tasks.start_soon(old.close, name="standby-close")

    async def _run(self, session: Session, ready: anyio.Event) -> None:
        """Own the session's process; one that fails to start is the next attempt's news."""
        try:
            await session.run(task_status=_Started(ready))
        except AttachError as error:
            message = f"a session to stand by failed: {error}"
            log.debug(message)
        except Exception as error:
            log.error("a session to stand by failed by a bug", exc_info=error)
        finally:
            ready.set()
            if self._session is session:
                self._session = None

    async def take(self, spec: LaunchSpec) -> Session | None:
        """Hand the session over, when it is ready and was started as one would be now."""
        session = self._session
        if session is None:
            return None
        if session.spec != spec:
            await self.drop()
            return None
        try:
            await self._ready.wait()
        except BaseException:  # it hangs: the next attempt shall have another
            with anyio.CancelScope(shield=True):
                await self.drop()
            raise
        if self._session is not session or not session.ray or session.exit is not None:
            return None
        self._session = None
        return session

    async def drop(self) -> None:
        """End the session; returns when nothing of it is left."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Started:
    """Turns a task's report of being started into an event."""

    def __init__(self, ready: anyio.Event) -> None:
        self._ready = ready

    def started(self, value: object = None) -> None:  # noqa: ARG002
        self._ready.set()
