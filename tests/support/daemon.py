"""A running castrayd: a real process on a real socket, watched for what it leaves behind."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psutil

from tests.support.log_schema import check_lines
from tests.support.processes import MARK, marked, new_mark, reap_marked

__all__ = ("Daemon", "running_daemon", "slow_python", "spawning")

STOP_S = 15.0


class Daemon:
    """The daemon as an operator sees it."""

    def __init__(
        self, folder: Path, environ: Mapping[str, str], arguments: tuple[str, ...]
    ) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.log_path = folder / "log"
        self.mark = new_mark()
        self.isolated = False
        self._environ = {**environ, MARK: self.mark}
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, *prefix: str) -> None:
        """Start the process; does not wait for its socket."""
        if self.isolated:
            prefix = (*prefix, *_ISOLATED)
        command = [
            *prefix, sys.executable, "-m", "castrayd", "run",
            f"--socket={self.socket}", f"--state-dir={self.folder / 'state'}",
            "--log-format=json", "--log-level=debug", *self._arguments,
        ]  # fmt: skip
        with self.log_path.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    async def answers(self, timeout_s: float = 10.0) -> None:
        """Wait until the socket answers."""
        with anyio.fail_after(timeout_s):
            while True:
                with contextlib.suppress(OSError, aiohttp.ClientError):
                    await self.get("/api/health/live")
                    return
                assert self.process.poll() is None, self.log_text()
                await anyio.sleep(0.01)

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The daemon's own process."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """The daemon's own pid, as this machine counts."""
        if not self.isolated:
            return self.process.pid
        command = f"{sys.executable} -m castrayd run"
        return next(pid for pid, line in marked(self.mark).items() if line.startswith(command))

    def children(self) -> dict[int, str]:
        """Every other process that this daemon has started, by pid, directly or not."""
        ours = {self.process.pid, self.pid}
        return {
            pid: line
            for pid, line in marked(self.mark).items()
            if pid not in ours and not line.startswith("sh -c")
        }

    def sessions(self) -> list[int]:
        """The pids of its sessions: the attached one, and one that stands by."""
        return [pid for pid, line in self.children().items() if "castrayd.driver.main" in line]

    async def stands_by(self, timeout_s: float = 20.0) -> None:
        """Wait until a session has ray loaded."""
        with anyio.fail_after(timeout_s):
            while not any(_has_ray(pid) for pid in self.sessions()):
                await anyio.sleep(0.05)

    def joined(self) -> list[int]:
        """The pids of those that are in a cluster: they hold connections to its GCS."""
        return [pid for pid in self.sessions() if _talks(pid)]

    # --- the API ---

    async def ask(
        self, method: str, path: str, body: Any = None, **options: Any
    ) -> tuple[int, Any]:
        """Make a request; returns status and document."""
        connector = aiohttp.UnixConnector(str(self.socket))
        timeout = aiohttp.ClientTimeout(total=20)
        async with (
            aiohttp.ClientSession("http://castrayd", connector=connector, timeout=timeout) as web,
            web.request(method, path, json=body, **options) as response,
        ):
            return response.status, json.loads(await response.read() or b"null")

    async def headers(self, method: str, path: str, body: Any = None) -> Mapping[str, str]:
        """Make a request; returns the headers of the answer."""
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession("http://castrayd", connector=connector) as web,
            web.request(method, path, json=body) as response,
        ):
            return dict(response.headers)

    async def get(self, path: str) -> Any:
        """GET a document."""
        return (await self.ask("GET", path))[1]

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        """POST; returns status and document."""
        return await self.ask("POST", path, {} if body is None else body)

    async def status(self) -> Any:
        """GET /api/status."""
        return await self.get("/api/status")

    async def wait_status(self, what: str, condition: Any, timeout_s: float = 20.0) -> Any:
        """Poll status until it satisfies `condition`; returns it."""
        status = None
        with anyio.move_on_after(timeout_s):
            while True:
                status = await self.status()
                if condition(status):
                    return status
                await anyio.sleep(0.02)
        raise AssertionError(
            f"not within {timeout_s} s: {what}; {status}\n{self.log_text()[-4000:]}"
        )

    async def wait_state(self, state: str, timeout_s: float = 20.0) -> Any:
        """Poll status until the state is `state`; returns it."""
        return await self.wait_status(state, lambda s: s["state"] == state, timeout_s)

    async def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Every event so far, of one name or of all."""
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession("http://castrayd", connector=connector) as web,
            web.get("/api/events?since=0") as response,
        ):
            lines = [json.loads(line) async for line in response.content]
        return [line for line in lines[1:] if name is None or line["name"] == name]

    async def another_session(self, before: Any, timeout_s: float = 30.0) -> Any:
        """Wait until another session than the one of that status is attached; returns status."""
        return await self.wait_status(
            "another session",
            lambda s: s["state"] == "connected" and s["session"]["pid"] != before["session"]["pid"],
            timeout_s,
        )

    async def wait_event(self, name: str, condition: Any, timeout_s: float = 20.0) -> Any:
        """Poll the event stream for an event; returns the first that fits."""
        with anyio.move_on_after(timeout_s):
            while True:
                for event in await self.events(name):
                    if condition(event):
                        return event
                await anyio.sleep(0.05)
        raise AssertionError(f"no {name} within {timeout_s} s\n{self.log_text()[-4000:]}")

    async def states(self) -> list[str]:
        """The states entered, in order."""
        return [event["to"] for event in await self.events("castray.state.changed")]

    # --- the process ---

    def log_text(self) -> str:
        """What it has logged."""
        return self.log_path.read_text()

    def logs(self) -> list[dict[str, Any]]:
        """Its whole lines so far, each as the schema has it; it writes them a little later."""
        whole = re.sub(_OF_GRPC, "", self.log_text().rpartition("\n")[0])
        lines = [json.loads(line) for line in whole.split("\n") if line]
        check_lines(lines)
        return lines

    async def wait_log(self, what: str, condition: Any, timeout_s: float = 5.0) -> Any:
        """Wait until a line is written that fits; returns the first."""
        with anyio.move_on_after(timeout_s):
            while True:
                for line in self.logs():
                    if condition(line):
                        return line
                await anyio.sleep(0.02)
        raise AssertionError(f"no line within {timeout_s} s: {what}\n{self.log_text()[-4000:]}")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def exit_code(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end."""
        with anyio.fail_after(timeout_s):
            while (code := self.process.poll()) is None:
                await anyio.sleep(0.01)
        return code

    async def nothing_left(self, timeout_s: float) -> None:
        """Wait until no process of it lives."""
        deadline = time.monotonic() + timeout_s
        while left := marked(self.mark):
            assert time.monotonic() < deadline, f"left after {timeout_s} s: {left}"
            await anyio.sleep(0.02)

    def forget(self) -> None:
        """Take note that it was killed: at the end there is nothing to stop."""
        self.process.wait()
        self._process = None

    def ray_processes(self) -> list[str]:
        """The command lines of what it has started of a Ray cluster."""
        names = ("gcs_server", "raylet")
        return [line for line in self.children().values() if any(name in line for name in names)]

    async def stop(self) -> None:
        """SIGTERM: exit 0, nothing left, no bug logged, and every line as the schema has it."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            code = await self.exit_code()
            assert code == 0, (code, self.log_text()[-4000:])
            await self.nothing_left(1.0)
        # what a session said last may well be a traceback; a stack of ours has a key of its own
        bugs = '"exception.type":', '"castray.internal"', "\nTraceback"
        assert not [sign for sign in bugs if sign in self.log_text()], self.log_text()[-4000:]
        refused = self.process.returncode in {
            73,
            74,
            78,
        }  # a start that is refused writes for a person
        if not refused and not any(one.startswith("--log-format=") for one in self._arguments):
            self.logs()


def _has_ray(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "_raylet" in Path(f"/proc/{pid}/maps").read_text()
    return False  # it ended meanwhile


def _talks(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        held = psutil.Process(pid).net_connections("tcp")
        return any(one.status == psutil.CONN_ESTABLISHED for one in held)
    return False  # it ended meanwhile


_OF_GRPC = re.compile(r"^[EWI]\d{4} \d\d:.*\n?", re.MULTILINE)
"""What gRPC's C++ writes to stderr by itself, of a failed TLS handshake for one."""

_INIT = '"$@"; code=$?; while set -- /proc/[0-9]*; [ $# -gt 1 ]; do sleep 0.05; done; exit $code'
_ISOLATED = (
    "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _INIT, "init",
)  # fmt: skip
"""A process table whose first process waits for all others, as an init does."""


def slow_python(folder: Path) -> Path:
    """Our interpreter, which takes five seconds to start."""
    slow = folder / "slow"
    slow.write_text(f'#!/bin/sh\nsleep 5\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    return slow


async def spawning(daemon: Daemon, name: str) -> None:
    """Wait until a session's interpreter of that name has been started."""
    with anyio.fail_after(10):
        while True:
            lines = daemon.children().values()
            if any(name in line and "driver.main" in line for line in lines):
                return
            await anyio.sleep(0.01)


@asynccontextmanager
async def running_daemon(
    *arguments: str,
    address: str | None = None,
    config: str = "",
    environ: Mapping[str, str] | None = None,
    launch: bool = True,
    isolated: bool = False,
) -> AsyncIterator[Daemon]:
    """A daemon for the length of a block; at its end it must stop cleanly and leave nothing.

    `isolated` gives it a process table of its own (needs root): no other cluster on this machine
    is seen by it. What it may discover is nothing,
    unless `config` says so. The pids that it tells are then its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="cd-", dir="/tmp"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "CASTRAYD_"))}
    env = {**kept, "PYTHONPATH": os.getcwd(), "RAY_USAGE_STATS_ENABLED": "0"}
    env["HOME"] = str(folder)  # a token in the developer's own home is not the test's
    if address is not None:
        env["RAY_ADDRESS"] = address
    if "discovery" not in config:  # another test's cluster is none of this one's business
        env["CASTRAYD_RAY__DISCOVERY"] = "[]"
    (folder / "castrayd.toml").write_text(config)
    daemon = Daemon(
        folder, {**env, **(environ or {})}, (f"--config={folder}/castrayd.toml", *arguments)
    )
    try:
        daemon.isolated = isolated
        if launch:
            daemon.launch()
            await daemon.answers()
        yield daemon
        if daemon._process is not None:
            await daemon.stop()
    finally:
        with anyio.CancelScope(shield=True):
            reap_marked(daemon.mark)
            if daemon._process is not None:
                daemon._process.wait()
        shutil.rmtree(folder, ignore_errors=True)
