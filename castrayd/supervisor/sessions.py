"""Where sessions come from: the one that stands by, or a new one; and who ends them."""

from collections.abc import Callable

import structlog
from anyio.abc import TaskGroup

from castrayd.core.states import Mode
from castrayd.session.launch import LaunchSpec, launch_spec
from castrayd.session.session import NodesPush, Session, SessionLine
from castrayd.session.standby import Standby
from castrayd.session.versions import Versions, interpreter_versions
from castrayd.supervisor.connection import NO_TOKEN, Connection, Token
from castrayd.threads import READS

__all__ = ("SessionPool", "session_versions")

log = structlog.get_logger("castrayd.session")


class SessionPool:
    """Spawns sessions inside the supervisor's task group and keeps at most one standing by."""

    def __init__(
        self,
        tasks: TaskGroup,
        on_output: Callable[[SessionLine], None],
        on_nodes: Callable[[Session, NodesPush], None],
    ) -> None:
        self._tasks = tasks
        self._on_output = on_output
        self._on_nodes = on_nodes
        self._standby = Standby(tasks, self._make)
        self._wanted = False
        self.from_standby = False
        """Whether the session obtained last had stood by."""

    def _make(self, spec: LaunchSpec) -> Session:
        session = Session(spec, on_output=self._on_output)
        session.on_nodes = lambda push: self._on_nodes(session, push)
        return session

    async def obtain(self, connection: Connection, token: Token, mode: Mode) -> Session:
        """Return a session with ray imported; cancelled, it leaves nothing behind."""
        spec = await READS.run(lambda: _spec(connection, token, mode))
        warm = await self._standby.take(spec)
        self.from_standby = warm is not None
        if warm is not None:
            return warm
        session = self._make(spec)
        try:
            await self._tasks.start(session.run)
        except BaseException:
            await session.close()  # a start that is cancelled does not wait for the task's end
            raise
        return session

    async def ray_version(self, connection: Connection) -> str | None:
        """Return the Ray version of the session's interpreter; None where it cannot be told."""
        return (await session_versions(connection)).ray

    def keep_warm(self, connection: Connection) -> None:
        """See to it that a session for the next attempt stands by, soon; never waits."""
        self._wanted = True
        self._tasks.start_soon(self._warm, connection, name="keep-warm")

    async def _warm(self, connection: Connection) -> None:
        """Look what it would be started with; where that cannot be told the attempt will say."""
        try:
            spec = await READS.run(lambda: _spec(connection, connection.token(), Mode.DRIVER))
        except Exception as error:
            log.error("preparing a session to stand by failed", exc_info=error)
            return
        if self._wanted:  # still
            self._standby.ensure(spec)

    async def cool(self) -> None:
        """End the session that stands by."""
        self._wanted = False
        await self._standby.drop()


async def session_versions(connection: Connection) -> Versions:
    """Tell Python's and Ray's versions of the session's interpreter; starts no session."""
    spec = await READS.run(lambda: _spec(connection, NO_TOKEN, Mode.DRIVER))
    return await interpreter_versions(spec)


def _spec(connection: Connection, token: Token, mode: Mode) -> LaunchSpec:
    return launch_spec(connection.python, token.value, connection.environ, mode=mode)
