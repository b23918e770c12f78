"""New settings for a daemon that runs: validated whole, then put in force, or nothing changed.

`daemon` alone makes it; the control API and SIGHUP ask it.
"""

from collections.abc import Callable

from castrayd.control.bodies import ReloadReply
from castrayd.core import events as e
from castrayd.core.cluster import Place
from castrayd.core.states import State
from castrayd.request import RunRequest, connection_of
from castrayd.settings import Settings, changed
from castrayd.supervisor.connection import Connection
from castrayd.supervisor.supervisor import Supervisor
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.facts import ConfigReloaded
from castrayd.telemetry.logs import LogLevel
from castrayd.telemetry.publisher import Publisher
from castrayd.threads import READS

__all__ = ("Reloader",)


class Reloader:
    """Holds the settings in force, and takes new ones."""

    def __init__(  # noqa: PLR0913, PLR0917  the composition root names each part once
        self,
        request: RunRequest,
        settings: Settings,
        supervisor: Supervisor,
        level: LogLevel,
        publisher: Publisher,
        clock: Clock,
        warn: Callable[[tuple[str, ...]], None],
    ) -> None:
        self.settings = settings
        self._request = request
        self._supervisor = supervisor
        self._level = level
        self._publisher = publisher
        self._clock = clock
        self._warn = warn

    async def reload(self) -> ReloadReply:
        """Take the settings as they are now; one at a time.

        Raises `SettingsError` and then changes nothing.
        """
        new, warnings = await READS.run(self._request.settings)
        keys, restart = changed(self.settings, new)
        connection = connection_of(self._request, new)
        reconnect, place = await self._fit(connection)
        if "log.level" in keys:  # else one that a request has moved stays
            self._level.set(new.log.level)
        self.settings = new
        self._supervisor.configure(connection)
        self._warn(warnings)
        now_s = self._clock.monotonic()
        await self._supervisor.ask(e.ConfigReloaded(now_s, reconnect, place.rank, place.fallback))
        self._renew()
        reconnect = reconnect and self._supervisor.snapshot.wants_attempts
        self._publisher.publish(ConfigReloaded(keys, reconnect))
        return ReloadReply(list(keys), reconnect, list(restart))

    def _renew(self) -> None:
        performer = self._supervisor.performer
        if performer is not None and performer.attachment is not None:
            performer.attachment.renew()

    async def _fit(self, new: Connection) -> tuple[bool, Place]:
        """Whether the session, or the lack of one, does not fit; and its place where it does."""
        old, snapshot = self._supervisor.connection, self._supervisor.snapshot
        every = await new.every() if new.aims(old) else ()
        performer = self._supervisor.performer
        attachment = performer.attachment if performer else None
        attached = snapshot.state in {State.CONNECTED, State.DEGRADED}
        if attachment is None or not attached:
            return old.aims(new), Place()
        candidate, place = attachment.attached.candidate, snapshot.place or Place()
        if new.aims(old):  # else it stands where the attempt has found it
            rank = new.rank(candidate, every)
            if rank is None:
                return True, place
            place = Place(rank, fallback=candidate.source == "local" and rank > 0)
        return not new.fits(old), place
