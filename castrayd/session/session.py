"""A session: the child process that holds one Ray driver, as the daemon sees it.

One task, `run`, owns the process: it lives exactly as long as that task. Requests go over the
wire and have deadlines here, for a thread that hangs in Ray cannot be told to stop. The end is
always the same: the wire is closed, and soon after the whole process group is killed.
"""

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from castrayd.core.candidates import Address
from castrayd.core.cluster import ClusterFacts, Node
from castrayd.core.states import Mode
from castrayd.errors import AttachError, ErrorType, Fault, Phase, described, redacted
from castrayd.session.bundle import Bundle, Row
from castrayd.session.driver_log import driver_log
from castrayd.session.guard import Guard, ray_temp_dir
from castrayd.session.launch import LaunchSpec
from castrayd.session.output import Output, SessionLine
from castrayd.session.process import Child, describe_exit
from castrayd.session.wire import PROTOCOL, Wire, WireError
from castrayd.threads import READS

__all__ = ("NodesPush", "Session", "SessionLine")

log = structlog.get_logger("castrayd.session")

SHUTDOWN_S: Final = 3.0
"""A local cluster's clean shutdown takes 0.5-1.5 s; after this it is killed."""

LATE_S: Final = 1.0
"""What a driver gets beyond a deadline that it keeps itself."""
LOG_S: Final = 0.5
"""What a look at a dead session's log may take: its end is news."""
CLOSE_S: Final = 10.0
"""Far more than a kill and a guardian take; a bug there must not hold the daemon."""


@dataclass(frozen=True, slots=True)
class NodesPush:
    """What changed in the node map."""

    nodes: tuple[Node, ...]
    """New ones and changed ones, whole."""
    gone: tuple[str, ...] = ()
    """Ids that the GCS does not list any more."""
    available: Mapping[str, float] | None = None


@dataclass(slots=True)
class _Pending:
    """A request without its answer yet."""

    id: int
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: dict[str, Any] = field(default_factory=dict)


class Session:
    """One session. `run` it in a task group that outlives its use; `close` ends it."""

    def __init__(self, spec: LaunchSpec, on_output: Callable[[SessionLine], None]) -> None:
        self.spec = spec
        self.id = secrets.token_hex(4)
        self.pid = 0
        self.python = ""
        self.ray = ""
        self.exit: Fault | None = None
        """Why the process ended by itself; None while it lives and after `close`."""
        self.logs: str | None = None
        """Ray's folder of logs on this host, once it is known."""
        self.on_nodes: Callable[[NodesPush], None] = lambda _push: None
        self._token = spec.environ.get("RAY_AUTH_TOKEN")
        self._output = Output(self.id, on_output, self._token)
        self._wire: Wire | None = None
        self._guard: Guard | None = None
        self._joined = False
        """Whether an attach was answered: what waits behind one that hangs only takes time."""
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._bundle = Bundle(self._write)
        self._beat: _Pending | None = None
        self._greeted = anyio.Event()
        self._gone = anyio.Event()
        self._stop = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self._farewell: anyio.CancelScope | None = None
        self._done = anyio.Event()

    # --- life ---

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Spawn, greet, import ray, and own the process until it ends or `close` is called.

        Reports started when ray is imported. Before that it raises `AttachError`
        (`session_spawn_failed`, `dependency_missing`, `session_exited`). Cancelled, it kills. A
        bug of ours after that ends this session and nothing else.
        """
        try:
            with anyio.CancelScope() as self._scope:  # before the spawn: `close` may come any time
                await self._live(task_status)
        except Exception as error:
            if not self.ray:
                raise
            log.error("a session failed by a bug", exc_info=error)
        finally:
            self._done.set()

    async def _live(self, task_status: TaskStatus[None]) -> None:
        if self._stop.is_set():
            return
        failure: AttachError | None = None
        child, wire = self._spawn()
        try:
            self._wire = await Wire.over(wire)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, child, name=f"session-{self.id}-exit")
                tasks.start_soon(self._read, name=f"session-{self.id}-wire")
                for stream, descriptor in child.outputs:
                    tasks.start_soon(self._output.follow, stream, descriptor)
                try:
                    await self._greet()
                    task_status.started()
                    await anyio.sleep_forever()
                except AttachError as error:
                    failure = error
                tasks.cancel_scope.cancel()
        except Exception as error:
            self._leave(Fault.of(ErrorType.INTERNAL, Phase.ATTACHED, described(error)))
            raise
        finally:
            with anyio.CancelScope(shield=True):
                if self._wire is None:
                    wire.close()
                await self._end(child)
        if failure is not None:
            raise failure

    def _spawn(self) -> tuple[Child, socket.socket]:
        """Start the child; returns it with our end of its wire. Nothing is awaited in between."""
        ours, theirs = socket.socketpair()
        try:
            child = Child.spawn(self.spec, theirs)
        except (OSError, ValueError) as error:  # a ValueError: a NUL in the path or the token
            ours.close()
            message = f"{self.spec.python}: {getattr(error, 'strerror', None) or error}"
            raise AttachError(
                Fault.of(ErrorType.SESSION_SPAWN_FAILED, Phase.SPAWN, message)
            ) from error
        finally:
            theirs.close()
        self.pid = child.pid
        ours.setblocking(False)  # noqa: FBT003  the socket module's form
        return child, ours

    async def _greet(self) -> None:
        await self._greeted.wait()
        if not self.python:
            raise AttachError(self._unexpected(Phase.SPAWN))
        answer = await self._ask(Phase.SPAWN, "import")
        self.ray = str(answer["ray"])

    async def _watch(self, child: Child) -> None:
        """Note the end of the process, with its last words."""
        status = await child.wait()
        for stream, descriptor in child.outputs:
            self._output.drain(stream, descriptor)
        code, text = describe_exit(status)
        message = f"session {self.pid} {text}"
        for source, words in (("it", self._output.last_words()), ("its log", await self._logged())):
            message += f"; {source} said: {words}" if words else ""
        self._leave(Fault.of(ErrorType.SESSION_EXITED, Phase.ATTACHED, message, code=code))

    async def _logged(self) -> str:
        """Read what Ray's C++ wrote down before it ended the process without a word."""
        with anyio.move_on_after(LOG_S):
            return redacted(await READS.run(lambda: driver_log(self.logs, self.pid)), self._token)
        return ""

    def _leave(self, fault: Fault) -> None:
        if self.exit is None and not self._stop.is_set():
            self.exit = fault
        self._gone.set()
        self._greeted.set()
        for pending in self._pending.values():
            pending.done.set()

    async def _end(self, child: Child) -> None:
        """Leave nothing: local cluster, wire, process group, guardian."""
        self._output.silent = True
        self._stop.set()
        if self._wire is not None:
            self._wire.close()
        await child.end()
        if self._guard is not None:
            await self._guard.release()
        self._leave(Fault.of(ErrorType.SESSION_EXITED, Phase.ATTACHED, "the session was closed"))

    async def close(self) -> None:
        """End the session and wait until nothing of it is left; idempotent, not cancellable."""
        with anyio.CancelScope(shield=True):
            self._output.silent = True
            if self._joined and self._guard and self.exit is None and not self._stop.is_set():
                with anyio.move_on_after(SHUTDOWN_S) as self._farewell:
                    await self._request("shutdown")
            self._stop.set()
            if self._scope is not None:
                self._scope.cancel()
            with anyio.move_on_after(CLOSE_S):
                await self._done.wait()

    def hurry(self) -> None:
        """Cut a clean end short: what is left of it is killed. Does nothing to one that lives."""
        if self._farewell is not None:
            self._farewell.cancel()

    async def wait_exit(self) -> Fault:
        """Wait until the process is gone; returns why."""
        await self._gone.wait()
        return self.exit or self._unexpected(Phase.ATTACHED)

    # --- the wire ---

    async def _read(self) -> None:
        assert self._wire is not None  # noqa: S101  set by _spawn
        try:
            while (frame := await self._wire.read()) is not None:
                self._take(frame)
        except (WireError, KeyError, TypeError, ValueError) as error:
            message = f"session {self.pid} broke the protocol: {error}"
            self._leave(Fault.of(ErrorType.SESSION_EXITED, Phase.ATTACHED, message))

    def _take(self, frame: dict[str, Any]) -> None:
        if "hello" in frame:
            if frame["hello"] != PROTOCOL:
                message = f"protocol {frame['hello']} instead of {PROTOCOL}"
                raise WireError(message)
            self.python = str(frame["python"])
            self._greeted.set()
        elif "push" in frame:
            self.on_nodes(msgspec.convert(_without(frame, "push"), NodesPush))
        else:
            pending = self._pending.pop(int(frame["id"]), None)
            if pending is not None:
                pending.answer = frame
                pending.done.set()

    def _send(self, op: str, arguments: Mapping[str, Any]) -> _Pending:
        pending = self._expect()
        self._write({"id": pending.id, "op": op, **arguments})
        return pending

    def _expect(self) -> _Pending:
        """Return a new request; without a process it is answered already, by nothing."""
        self._last_id += 1
        pending = self._pending[self._last_id] = _Pending(self._last_id)
        if self._gone.is_set() or self._wire is None:
            pending.done.set()
        return pending

    def _write(self, frame: dict[str, Any]) -> None:
        if self._wire is not None and not self._gone.is_set():
            self._wire.write(frame)

    async def _request(self, op: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        pending = self._send(op, arguments)
        await pending.done.wait()
        return pending.answer

    async def _ask(self, phase: Phase, op: str, **arguments: Any) -> Any:  # noqa: ANN401
        """Make a request and return its result. Raises `AttachError` for an error or an exit."""
        return self._result(phase, await self._request(op, **arguments))

    def _result(self, phase: Phase, answer: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if not answer:
            raise AttachError(self._unexpected(phase))
        error = answer.get("error")
        if error is None:
            return answer["ok"]
        kind = ErrorType(error["type"])
        message = redacted(error["message"], self._token)
        raise AttachError(Fault.of(kind, phase, message, code=error["code"]))

    def _unexpected(self, phase: Phase) -> Fault:
        """The session is gone: say how, as a fault of the phase that it was in."""
        why = self.exit
        kind = ErrorType.SESSION_SPAWN_FAILED if phase is Phase.SPAWN else ErrorType.SESSION_EXITED
        if why is None:
            return Fault.of(kind, phase, f"session {self.pid} was closed")
        return Fault.of(kind, phase, why.message, code=why.code)

    # --- what it is asked ---

    async def attach(
        self,
        address: Address,
        *,
        namespace: str,
        env_vars: Mapping[str, str],
        working_dir: str | None,
        timeout_s: float,
    ) -> ClusterFacts:
        """Join the cluster, or in local mode start one.

        Raises `AttachError` (`init_timeout`, `init_failed`, `version_mismatch`, `session_exited`,
        ...). After a timeout the session hangs in Ray and must be closed.
        """
        if address.mode is Mode.LOCAL:
            self._guard = Guard(self.pid, ray_temp_dir(self.spec.environ))
        with anyio.move_on_after(timeout_s):
            answer = await self._ask(
                Phase.INIT,
                "attach",
                address=address.url,
                mode=address.mode.value,
                namespace=namespace,
                env_vars=dict(env_vars),
                working_dir=working_dir if address.mode is Mode.LOCAL else None,
            )
            self._joined = True
            if self._guard is not None and answer["session_dir"]:
                self._guard.tell(answer["session_dir"])
            return msgspec.convert(_without(answer, "session_dir"), ClusterFacts)
        message = f"ray.init({address.url}) did not return within {timeout_s} s"
        raise AttachError(Fault.of(ErrorType.INIT_TIMEOUT, Phase.INIT, message))

    async def nodes(self, timeout_s: float) -> NodesPush:
        """Load the whole node map. Raises `AttachError` (`node_map_timeout`, `node_map_empty`)."""
        with anyio.move_on_after(timeout_s):
            whole = msgspec.convert(await self._ask(Phase.NODES, "nodes"), NodesPush)
            if not any(node.alive for node in whole.nodes):
                message = f"{len(whole.nodes)} nodes are listed, none is alive"
                raise AttachError(Fault.of(ErrorType.NODE_MAP_EMPTY, Phase.NODES, message))
            return whole
        message = f"the node map did not arrive within {timeout_s} s"
        raise AttachError(Fault.of(ErrorType.NODE_MAP_TIMEOUT, Phase.NODES, message))

    async def cast(self, op: str, *, timeout_s: float, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        """Have the driver's casting do something; returns `{"value"}` or `{"error"}`.

        The driver keeps the deadline; what it does not answer at all soon after is `timed_out`.
        """
        pending = self._send(op, {**arguments, "timeout_s": timeout_s})
        return await self._told(pending, timeout_s)

    async def deliver(self, name: str, rows: Sequence[Row], *, timeout_s: float) -> dict[str, Any]:
        """Hand messages to a casting node; as `cast`, in a frame with what is for others."""
        pending = self._expect()
        self._bundle.add(pending.id, name, rows, timeout_s)
        return await self._told(pending, timeout_s)

    async def _told(self, pending: _Pending, timeout_s: float) -> dict[str, Any]:
        with anyio.move_on_after(timeout_s + LATE_S):
            await pending.done.wait()
            answer = pending.answer
            if not answer:
                return _lost(f"session {self.pid} has ended")
            if error := answer.get("error"):
                return _lost(redacted(error["message"], self._token))
            return dict(answer["ok"])
        return _lost(f"session {self.pid} does not answer")

    async def ping(self, timeout_s: float) -> None:
        """See that the process runs. Raises `AttachError` (`session_unresponsive`)."""
        with anyio.move_on_after(timeout_s):
            await self._ask(Phase.ATTACHED, "ping")
            return
        raise AttachError(_silent(f"session {self.pid} does not answer ({timeout_s} s)"))

    async def heartbeat(self, timeout_s: float) -> None:
        """See that Ray answers in the session. Raises `AttachError` (`session_unresponsive`).

        While one is on its way no second is sent: a late answer to the first counts.
        """
        beat = self._beat
        if beat is None:
            beat = self._beat = self._send("heartbeat", {})
        with anyio.move_on_after(timeout_s):
            await beat.done.wait()
            self._beat = None
            self._beaten(beat.answer)
            return
        raise AttachError(_silent(f"Ray in session {self.pid} does not answer ({timeout_s} s)"))

    def _beaten(self, answer: Mapping[str, Any]) -> None:
        """Whatever Ray raises, a session that cannot reach its cluster is of no use."""
        try:
            self._result(Phase.ATTACHED, answer)
        except AttachError as error:
            if error.fault.type is ErrorType.SESSION_EXITED:
                raise
            raise AttachError(_silent(error.fault.message)) from error


def _lost(message: str) -> dict[str, Any]:
    """Nothing is known of what was asked for: it may have been done."""
    return {"error": {"type": "timed_out", "message": message}}


def _silent(message: str) -> Fault:
    return Fault.of(ErrorType.SESSION_UNRESPONSIVE, Phase.ATTACHED, message)


def _without(frame: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in frame.items() if name != key}
