"""The composition root: puts the parts together, and starts and stops them in order.

Order of start: settings, ledger, lock and socket, control API, supervisor, then what takes time
(the gRPC library). Order of stop: supervisor (ends the session), control API, socket. `cli` alone
calls `run`.
"""

import asyncio
import contextlib
import os
import platform
import secrets
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import structlog

import castrayd
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.service import CastingService
from castrayd.control.app import Control, serve, serve_open
from castrayd.control.bodies import ReloadReply, VersionDocument
from castrayd.control.socket import answers, claim, loopback
from castrayd.core import events as e
from castrayd.core.snapshot import Snapshot
from castrayd.errors import AlreadyRunningError, SettingsError
from castrayd.history import History
from castrayd.ledger import Ledger, Wish
from castrayd.probe.grpc_library import load_grpc
from castrayd.refusals import ApiError, ApiErrorType
from castrayd.reload import Reloader
from castrayd.request import RunRequest, access_of, connection_of, socket_path_of, state_dir_of
from castrayd.service import ServiceManager
from castrayd.settings import Settings, shown
from castrayd.supervisor.doctor import Doctor
from castrayd.supervisor.documents import AttemptDocument, CastingDocument, StandingWarning
from castrayd.supervisor.headline import headline
from castrayd.supervisor.service import AttachmentService, Identity
from castrayd.supervisor.supervisor import ClosedError, Supervisor
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.events import EventLog, Item
from castrayd.telemetry.exposition import exposition
from castrayd.telemetry.facts import (
    AttemptEnded,
    ConfigReloaded,
    DesiredChanged,
    Fact,
    NodesChanged,
    StateChanged,
    TransferProgress,
)
from castrayd.telemetry.lines import LineWriter
from castrayd.telemetry.logs import LogLevel, choose_format, configure
from castrayd.telemetry.metrics import Metrics
from castrayd.telemetry.publisher import Publisher
from castrayd.telemetry.wording import place_keys
from castrayd.threads import READS

__all__ = ("EXIT_CONFIG", "EXIT_RUNNING", "RunRequest", "doctor", "run")

LOAD_AFTER_S: Final = 0.05
FLUSH_S: Final = 1.0
"""What the last log lines get, where nobody reads them."""
STOPPED_S: Final = 5.0
"""What the end may take after `daemon.stop_s`: socket, ledger, log."""
ATTEMPTS: Final = 200
"""Of earlier lives, that are shown."""
EXIT_INTERNAL: Final = 70
EXIT_RUNNING: Final = 73
EXIT_PASSING: Final = 74
"""EX_IOERR of sysexits(3): what hinders may mend by itself, and to be started again is right."""
EXIT_CONFIG: Final = 78

log = structlog.get_logger("castrayd.daemon")


def run(request: RunRequest) -> int:
    """Run the daemon until it is told to stop; returns the process's exit code."""
    try:
        settings, warnings = request.settings()
        return anyio.run(partial(_main, request, settings, warnings), backend="asyncio")
    except SettingsError as error:
        return _refuse(str(error), EXIT_PASSING if error.passing else EXIT_CONFIG)
    except AlreadyRunningError as error:
        return _refuse(f"castrayd: {error}", EXIT_RUNNING)


def doctor(request: RunRequest, socket_path: str) -> Doctor:
    """Return a doctor with the settings that a daemon would have. Raises `SettingsError`."""
    settings, _ = request.settings()
    connection = connection_of(request, settings)
    return Doctor(lambda: connection, lambda: shown(settings), socket_path, Clock())


def _refuse(message: str, code: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"{message}\n")
    return code


async def _main(request: RunRequest, settings: Settings, warnings: tuple[str, ...]) -> int:
    """Claim the socket before anything of another daemon's could be touched."""
    path = socket_path_of(request, settings)
    with claim(path) as listener, loopback(settings.metrics.listen) as scraped:
        daemon = _Daemon(request, settings, warnings, path)
        try:
            return await daemon.run(listener, scraped)
        finally:
            daemon.close()


class _Daemon:
    """All parts of one running daemon."""

    def __init__(
        self,
        request: RunRequest,
        settings: Settings,
        warnings: tuple[str, ...],
        socket_path: Path,
    ) -> None:
        self.request = request
        self.clock = Clock()
        self.level = LogLevel(settings.log.level)
        self.socket_path = socket_path
        self.manager = ServiceManager(request.environ)
        self.ledger = Ledger(state_dir_of(request, settings) / "ledger.sqlite")
        daemon_id = self.ledger.daemon_id()
        self._log_writer = _configure_logs(request, settings, self.level, self.clock, daemon_id)
        events = EventLog(secrets.token_hex(8), self.ledger.reserve_seq())
        self.history = History(self.ledger)
        events.restore(self.history.events())
        self.metrics = Metrics()
        self.publisher = Publisher(
            events,
            self.clock,
            self._keep,
            lambda _item, fact: self.metrics.observe(fact),
            lambda _item, fact: self._show(fact),
        )
        wish = self.ledger.wish()
        self.supervisor = Supervisor(
            connection_of(request, settings),
            Snapshot(secrets.token_hex(4), since_s=self.clock.monotonic(), desired=wish.desired),
            self.publisher,
            self.clock,
        )
        identity = Identity(daemon_id, self.clock.now(), self.clock.monotonic())
        self.service = AttachmentService(
            self.supervisor,
            events,
            self.clock,
            identity,
            wish,
            self._store_wish,
        )
        self.casting = CastingService(
            self.service,
            self.ledger,
            self.publisher,
            daemon_id,
            self._casting_policy,
            self.clock,
            self.ledger.path.with_name("uploads"),
        )
        self.service.casting = lambda: CastingDocument(*self.casting.nodes.counts)
        self.service.wished = self._wished
        self.supervisor.busy = self.casting.transfers.running
        self.service.transfers = self.casting.transfers.totals
        self.service.earlier = tuple(_earlier(self.history))
        self.service.connected_at = self.ledger.connected_at()
        self._access = access_of(settings)
        self._reloading = anyio.Lock()
        self.reloader = Reloader(
            request,
            settings,
            self.supervisor,
            self.level,
            self.publisher,
            self.clock,
            self._warn,
        )
        self._warn(warnings)

    def _keep(self, item: Item, fact: Fact) -> None:
        """Have the history keep an event, unless the next one makes it worthless."""
        if not isinstance(fact, TransferProgress):
            self.history.keep(item)

    def _show(self, fact: Fact) -> None:
        """Have the service manager show how it stands, where that may have changed."""
        if isinstance(fact, (StateChanged, DesiredChanged, AttemptEnded, NodesChanged)):
            self.manager.status(self._line)

    def _line(self) -> str:
        return headline(self.service.status())

    def _casting_policy(self) -> CastingPolicy:
        casting = self.reloader.settings.casting
        roots = {name: msgspec.structs.asdict(root) for name, root in casting.roots.items()}
        return CastingPolicy(
            casting.data_dir,
            casting.inbox_messages,
            casting.dedupe_messages,
            roots,
            casting.upload_bytes,
            casting.upload_s,
            casting.disk_reserve_bytes,
            casting.follow,
            casting.patience_s,
        )

    def _wished(self, wish: Wish) -> None:
        self.publisher.publish(DesiredChanged(wish.desired, wish.who, wish.reason))

    async def _store_wish(self, wish: Wish) -> None:
        """Keep a wish, or refuse it: one that a restart forgets is none."""
        try:
            await READS.run(lambda: self.ledger.store_wish(wish))
        except sqlite3.Error as error:
            message = f"the wish cannot be kept: {error}"
            hint = "Look at the disk of daemon.state_dir: it may be full."
            raise ApiError(ApiErrorType.BUSY, message, hint) from error

    async def run(self, listener: socket.socket, scraped: socket.socket | None) -> int:
        """Serve, and return the process's exit code."""
        asyncio.get_running_loop().set_exception_handler(_loop_trouble)
        try:
            await self.serve(listener, scraped)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has been obeyed
        except Exception as error:
            log.critical("castrayd ends: this is a bug, please report it", exc_info=error)
            return EXIT_INTERNAL
        if not self.supervisor.snapshot.stopping:
            log.critical("castrayd ends without having been told to: this is a bug")
            return EXIT_INTERNAL
        log.info("stopped")
        return 0

    def close(self) -> None:
        """Let go of the ledger, and of what is still to be logged."""
        self.history.close(FLUSH_S)
        self._log_writer.flush(FLUSH_S)
        self.ledger.close(FLUSH_S)

    async def serve(self, listener: socket.socket, scraped: socket.socket | None) -> None:
        """Serve until a signal says stop; nothing is left when it returns."""
        async with _signals() as signals, anyio.create_task_group() as tasks:
            control = self._control()
            await tasks.start(serve, control, listener)
            if scraped is not None:
                tasks.start_soon(serve_open, control, scraped, name="metrics")
            self._greet()
            self.manager.ready(self._line)
            async with anyio.create_task_group() as work:
                work.start_soon(self._obey, signals, tasks.cancel_scope, name="signals")
                work.start_soon(self._supervise, work.cancel_scope, name="supervisor")
                work.start_soon(self.casting.run, self.request.demo_nodes, name="casting")
                work.start_soon(_load_soon, name="load-grpc")
                work.start_soon(self.manager.keep_shown, self._line, name="status")
                work.start_soon(
                    self.manager.watch, self.supervisor.turn, self._answers, name="watchdog"
                )
            tasks.cancel_scope.cancel()

    async def _answers(self) -> None:
        await answers(self.socket_path)

    async def _supervise(self, scope: anyio.CancelScope) -> None:
        await self.supervisor.run()
        scope.cancel()

    async def _obey(
        self, signals: AsyncIterator[signal.Signals], everything: anyio.CancelScope
    ) -> None:
        async with anyio.create_task_group() as tasks:
            stopping = False
            async for number in signals:
                if number is signal.SIGHUP:
                    tasks.start_soon(self._reload_by_signal)
                elif stopping:
                    self._end_now(everything)  # the second time is meant
                else:
                    stopping = True
                    message = f"stopping: {number.name}"
                    log.info(message)
                    stop_s = self.reloader.settings.daemon.stop_s
                    self.manager.stopping(stop_s + STOPPED_S)
                    self.supervisor.post(e.StopRequested(self.clock.monotonic()))
                    tasks.start_soon(self._cut_off, stop_s, everything)

    async def _cut_off(self, seconds: float, everything: anyio.CancelScope) -> None:
        await anyio.sleep(seconds)
        self._end_now(everything)

    def _end_now(self, everything: anyio.CancelScope) -> None:
        if self.supervisor.performer is not None:
            self.supervisor.performer.hurry()
        everything.cancel()

    async def reload(self) -> ReloadReply:
        """Take the settings as they are now, and have the service manager wait for it."""
        async with self._reloading:
            self.manager.reloading()
            try:
                return await self.reloader.reload()
            finally:
                self.manager.ready(self._line)

    async def _reload_by_signal(self) -> None:
        """Do the same where nobody waits for the answer: the log tells it."""
        try:
            await self.reload()
        except ClosedError:
            return
        except Exception as error:
            if not isinstance(error, SettingsError):
                log.error("a reload failed by a bug", exc_info=error)
            self.publisher.publish(ConfigReloaded(error=str(error)))

    def _control(self) -> Control:
        return Control(
            service=self.service,
            casting=self.casting,
            access=self._access,
            reload=self.reload,
            log_level=self.level,
            metrics=lambda: exposition(self.metrics, self.service.standing(self.history.dropped)),
            version=VersionDocument(
                castrayd.__version__, platform.python_version(), 1, _installed("ray")
            ),
            doctor=Doctor(
                lambda: self.supervisor.connection,
                lambda: shown(self.reloader.settings),
                str(self.socket_path),
                self.clock,
            ),
        )

    def _greet(self) -> None:
        connection = self.supervisor.connection
        first = next(iter(connection.candidates(None)), None)
        others = len(connection.candidates(None)) - 1
        more = f" and {others} more" if others > 0 else ""
        aim = f"{first.text} ({first.source}){more}" if first else "no address configured"
        message = (
            f"castrayd {castrayd.__version__} serves {self.socket_path}; "
            f"aims at {aim}, namespace {connection.namespace}"
        )
        keys = {"event.name": "castray.daemon.started", "castray.namespace": connection.namespace}
        if first:
            keys |= {**place_keys("server", first.text), "castray.address.source": first.source}
        log.info(message, **keys)

    def _warn(self, ignored: tuple[str, ...]) -> None:
        """Put the standing warnings into status, and into the log once."""
        now = self.clock.now()
        texts = [("setting_ignored", text) for text in ignored]
        if self.ledger.set_aside is not None:
            texts.append(
                ("ledger_damaged", f"a damaged ledger was set aside: {self.ledger.set_aside}")
            )
        hints = {
            "setting_ignored": "Remove the variable, or correct its name.",
            "ledger_damaged": "Keep the file for a report; what was wanted before is forgotten.",
        }
        known = {(one.code, one.message): one.since for one in self.service.warnings}
        self.service.warnings = tuple(
            StandingWarning(code, "warning", text, hints[code], known.get((code, text), now))
            for code, text in texts
        )
        for code, text in texts:
            if (code, text) not in known:
                log.warning(text, **{"castray.warning.code": code})


def _earlier(history: History) -> Iterator[AttemptDocument]:
    for one in history.attempts(ATTEMPTS):
        with contextlib.suppress(msgspec.ValidationError):  # of a version that knew less
            yield msgspec.convert(one, AttemptDocument)


def _loop_trouble(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio would print, so that the log stays one of whole lines."""
    message = context.get("message", "trouble in the event loop")
    log.error(message, exc_info=context.get("exception"))


async def _load_soon() -> None:
    """Load gRPC before it is needed, but not beside the first attempt's first phases."""
    await anyio.sleep(LOAD_AFTER_S)
    await load_grpc()


@asynccontextmanager
async def _signals() -> AsyncIterator[AsyncIterator[signal.Signals]]:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        yield signals


def _configure_logs(
    request: RunRequest, settings: Settings, level: LogLevel, clock: Clock, daemon_id: str
) -> LineWriter[Any]:
    bound: dict[str, Any] = {
        "service.name": "castrayd",
        "service.version": castrayd.__version__,
        "service.instance.id": daemon_id,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    form = choose_format(settings.log.format, sys.stderr, request.environ)
    return configure(form, level, clock.now, bound)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
