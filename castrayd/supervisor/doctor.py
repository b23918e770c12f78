"""The doctor: walks to every known cluster now, looks at this host, and reports; changes nothing.

The daemon answers `GET /api/doctor` by it, and castrayctl runs it itself where there is no daemon.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final

import anyio

import castrayd
from castrayd.core.candidates import Candidate
from castrayd.core.policy import Deadlines
from castrayd.core.states import Mode
from castrayd.errors import ERROR_CLASSES, ErrorType, Fault, Phase
from castrayd.probe import host
from castrayd.probe.host import HostCheck, Verdict
from castrayd.probe.local_node import scan
from castrayd.session.versions import Versions
from castrayd.supervisor.connection import Connection, Token
from castrayd.supervisor.sessions import session_versions
from castrayd.supervisor.walk import WalkDocument, walk_all
from castrayd.telemetry.clock import Clock
from castrayd.threads import READS

__all__ = ("Doctor", "DoctorReport")

QUICK: Final = Deadlines(
    discover_s=2.0, resolve_s=1.5, tcp_s=1.5, health_s=1.5, identity_s=1.0, local_node_s=1.0
)
"""The most that a step gets; a lost SYN is sent again after one second."""
LOOK_S: Final = 1.0
"""For the token's file and the interpreter: a home may lie on a server that does not answer."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Everything that the doctor saw."""

    ok: bool
    """No check has failed, and no candidate; what nobody has named may, beside a good one."""
    at: str
    duration_s: float
    by: str
    """Who looked: `castrayd`, or `castrayctl` by itself."""
    uid: int
    """As which user it looked."""
    candidates: tuple[WalkDocument, ...]
    error: Fault | None
    """Why there is no candidate, where there should be one."""
    host: tuple[HostCheck, ...]
    versions: Mapping[str, str | None]
    settings: Mapping[str, Any]
    """Those in force, without secrets."""


class Doctor:
    """Examines on request, one request at a time: each costs probes and a look at all of /proc."""

    def __init__(
        self,
        connection: Callable[[], Connection],
        settings: Callable[[], Mapping[str, Any]],
        socket_path: str,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._socket_path = socket_path
        self._clock = clock
        self._turn = anyio.Lock()

    async def examine(self, address: str | None, rights: Sequence[str] | None) -> DoctorReport:
        """Walk to one address, or to every known candidate, and look at the host.

        `rights` are those of who asks at the control socket; None where no daemon was asked.
        """
        async with self._turn:
            at, began_s = self._clock.now(), self._clock.monotonic()
            connection = _quick(self._connection())
            versions, token = await _versions(connection), await _token(connection)
            walks = await self._walk(connection, address, token or _SILENT, versions)
            checks = await self._look(connection, walks, token, versions, rights)
            own = connection.allow_local_start and address is None
            return DoctorReport(
                ok=_is_well(walks, checks, own_cluster=own),
                at=at,
                duration_s=self._clock.monotonic() - began_s,
                by="castrayctl" if rights is None else "castrayd",
                uid=os.geteuid(),
                candidates=walks,
                error=None if walks or own else _nothing_known(),
                host=checks,
                versions=_shown(versions),
                settings=self._settings(),
            )

    async def _walk(
        self, connection: Connection, address: str | None, token: Token, versions: Versions
    ) -> tuple[WalkDocument, ...]:
        async def expect() -> str | None:
            return versions.ray

        known: Sequence[Candidate] = connection.candidates(address)
        if address is None:
            known = await connection.every()
        return await walk_all(known, connection, token, expect, self._clock)

    async def _look(
        self,
        connection: Connection,
        walks: Sequence[WalkDocument],
        token: Token | None,
        versions: Versions,
        rights: Sequence[str] | None,
    ) -> tuple[HostCheck, ...]:
        """Look at the host; a raylet is needed where a walk has looked for one."""
        needed = any(walk.mode is Mode.DRIVER for walk in walks)
        return (
            host.check_raylets(await scan(), needed=needed),
            _check_versions(versions),
            await _check_token(token, connection.token_file),
            host.check_clock(),
            host.check_shm(),
            host.check_files(),
            host.check_control(self._socket_path, rights),
        )


def _quick(connection: Connection) -> Connection:
    """Let no step take longer than who waits for the doctor has patience."""
    names = [field.name for field in fields(Deadlines)]
    least = {n: min(getattr(connection.deadlines, n), getattr(QUICK, n)) for n in names}
    return replace(connection, deadlines=Deadlines(**least))


async def _versions(connection: Connection) -> Versions:
    with anyio.move_on_after(LOOK_S):
        return await session_versions(connection)
    return Versions("", None)


async def _token(connection: Connection) -> Token | None:
    """Look for the token; None where the look itself takes too long."""
    with anyio.move_on_after(LOOK_S):
        return await connection.current_token()
    return None


_SILENT: Final = Token(None, "the token's file does not answer")


def _check_versions(versions: Versions) -> HostCheck:
    ours = f"castrayd {castrayd.__version__}, Python {platform.python_version()}"
    theirs = f"session: Python {versions.python or 'unknown'}, Ray {versions.ray or 'unknown'}"
    known = versions.ray is not None
    hint = None if known else ERROR_CLASSES[ErrorType.DEPENDENCY_MISSING].hint
    verdict = Verdict.OK if known else Verdict.FAILED
    return HostCheck("versions", verdict, f"{ours}; {theirs}", hint)


async def _check_token(token: Token | None, token_file: str | None) -> HostCheck:
    if token is not None:
        trouble = bool(token_file) and token.path != token_file
        with anyio.move_on_after(LOOK_S):
            look = partial(host.check_token, token.source, token.path, trouble=trouble)
            return await READS.run(look)
    remedy = "Look at the file system that the token's file, or the home, lies on."
    return HostCheck("token", Verdict.UNKNOWN, _SILENT.source, remedy)


def _is_well(
    walks: Sequence[WalkDocument], checks: Sequence[HostCheck], *, own_cluster: bool
) -> bool:
    """Whether nothing failed. A stale note of Ray's is no failure where a cluster is good."""
    named = [walk.ok for walk in walks if not walk.hearsay]
    good = any(walk.ok for walk in walks) or (own_cluster and not named)
    return good and all(named) and not any(one.verdict is Verdict.FAILED for one in checks)


def _nothing_known() -> Fault:
    message = "no address is configured and none was discovered"
    return Fault.of(ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER, message)


def _shown(session: Versions) -> dict[str, str | None]:
    return {
        "castrayd": castrayd.__version__,
        "python": platform.python_version(),
        "session_python": session.python or None,
        "session_ray": session.ray,
        "kernel": platform.release(),
        "machine": platform.machine(),
    }
