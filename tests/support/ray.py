"""A real Ray head for tests, started and ended by pid. Ray itself is never imported here."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from castrayd.probe.local_node import Raylet, raylets
from tests.support.processes import MARK, free_port, kill, marked, new_mark, reap_marked, until

__all__ = ("STORE_BYTES", "RayHead", "ray_head")

START_S = 60.0
STORE_BYTES = 80_000_000
"""Of a raylet's object store: enough for tests."""


class RayHead:
    """One head with one raylet, in a temporary folder of its own.

    Without `--block`, under which Ray ends the whole head when one of its processes dies.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        python: str = sys.executable,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
        store: int = STORE_BYTES,
    ) -> None:
        self._environ = environ or {}
        self._store = f"--object-store-memory={store}"  # of each raylet, bytes
        self._client_port = free_port()  # the same after a restart
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.token = token
        self._python = python
        self._mark = new_mark()
        self._started: list[subprocess.Popen[bytes]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))

    def start(self, *, wait: bool = True) -> None:
        """Start GCS and raylet; with `wait` return when both are there."""
        ports = [free_port() for _ in range(3)]
        command = [
            *self._ray("start", "--head", "--disable-usage-stats"),
            f"--port={self.port}",
            "--num-cpus=1",
            self._store,
            "--include-dashboard=false",
            f"--temp-dir={self._folder}",
            f"--ray-client-server-port={self._client_port}",
            f"--dashboard-port={ports[0]}",
            f"--dashboard-agent-listen-port={ports[1]}",
            f"--dashboard-agent-grpc-port={ports[2]}",
        ]
        self._run(command)
        if wait:
            until(lambda: self.gcs_pid and self.raylet, START_S, f"a head on {self.port}")

    def start_raylet(self, hostname: str | None = None) -> None:
        """Start another raylet of this cluster on this host; Ray demands a living head for it.

        With `hostname` it takes this for another host (needs root).
        """
        ports = [free_port() for _ in range(2)]
        command = [
            *self._ray("start", f"--address={self.address}", "--disable-usage-stats"),
            "--num-cpus=1",
            self._store,
            f"--dashboard-agent-listen-port={ports[0]}",
            f"--dashboard-agent-grpc-port={ports[1]}",
        ]
        if hostname is not None:
            script = f'hostname {hostname}; exec "$@"'
            command = ["unshare", "--uts", "sh", "-c", script, "init", *command]
        before = len(self.raylets)
        self._run(command)
        until(lambda: len(self.raylets) > before, START_S, "another raylet")

    def _ray(self, *arguments: str) -> list[str]:
        script = "from ray.scripts.scripts import main; main()"
        return [self._python, "-c", script, *arguments]

    def _run(self, command: list[str]) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environ |= {MARK: self._mark, "RAY_USAGE_STATS_ENABLED": "0", **self._environ}
        if self.token is None:
            environ["RAY_AUTH_MODE"] = "disabled"
        else:
            environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        with (self._folder / "out.txt").open("ab") as out:
            self._started.append(
                subprocess.Popen(
                    command,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    def processes(self) -> list[tuple[int, str]]:
        """Everything that runs of it: pids and command lines."""
        return list(marked(self._mark).items())

    @property
    def gcs_pid(self) -> int | None:
        """The pid of the GCS, once it listens."""
        pids = [pid for pid, line in marked(self._mark).items() if "/gcs_server " in line]
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                listening = psutil.Process(pid).net_connections("tcp")
                if any(c.laddr.port == self.port and c.status == "LISTEN" for c in listening):
                    return pid
        return None

    @property
    def client_server_pid(self) -> int | None:
        """The pid of the Ray Client server's proxy."""
        lines = marked(self._mark).items()
        return next((pid for pid, line in lines if "--mode=proxy" in line), None)

    @property
    def client_address(self) -> str:
        """`ray://` of the Ray Client server, on the address that Ray chose for it."""
        pid = self.client_server_pid
        assert pid is not None
        found = re.search(r"--host=(\S+) --port=(\d+)", marked(self._mark)[pid])
        assert found is not None
        return f"ray://{found[1]}:{found[2]}"

    def wait_client_server(self) -> None:
        """Wait until the Ray Client server accepts connections."""
        until(lambda: self.client_server_pid, START_S, "a Ray Client server")
        host, _, port = self.client_address.removeprefix("ray://").rpartition(":")
        until(lambda: _listens(host, int(port)), START_S, "a Ray Client server that listens")

    def signal(self, number: int) -> None:
        """Send a signal to every process of this cluster."""
        for pid in marked(self._mark):
            kill(pid, number)

    @property
    def raylets(self) -> list[Raylet]:
        """The raylets of this cluster, the oldest (the head's own) first."""
        ours = marked(self._mark)
        found = [r for r in raylets() if r.pid in ours and _accepts(r.socket)]
        # what a raylet is about to start is its double for a moment, socket and all
        by_socket = {r.socket: r for r in sorted(found, key=lambda r: r.pid, reverse=True)}
        return sorted(by_socket.values(), key=lambda raylet: raylet.pid)

    @property
    def raylet(self) -> Raylet | None:
        """The head's own raylet, once it accepts connections."""
        return next(iter(self.raylets), None)

    def kill_gcs(self) -> None:
        """SIGKILL the GCS alone."""
        pid = self.gcs_pid
        assert pid is not None
        kill(pid)

    def restart_gcs(self) -> None:
        """SIGKILL the GCS and start it anew at once: another cluster at the same address.

        Its raylets linger and belong to the cluster that is gone.
        """
        pid = self.gcs_pid
        assert pid is not None
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        kill(pid)
        until(lambda: not _listens("127.0.0.1", self.port), START_S, "the end of the GCS")
        self._run([part.decode() for part in command])
        until(lambda: self.gcs_pid, START_S, f"a GCS on {self.port}")

    def kill_raylet(self) -> None:
        """SIGKILL the head's own raylet, which a driver prefers."""
        raylet = self.raylet
        assert raylet is not None
        kill(raylet.pid)

    def kill(self) -> None:
        """SIGKILL everything of this cluster at once."""
        reap_marked(self._mark)
        for process in self._started:
            process.wait()
        self._started.clear()

    def stop(self) -> None:
        """End everything of this cluster and remove its folder."""
        for pid in marked(self._mark):
            kill(pid, signal.SIGCONT)
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def output(self) -> str:
        """What `ray start` said."""
        return re.sub(r"\x1b\[[0-9;]*m", "", (self._folder / "out.txt").read_text())


def _accepts(path: str) -> bool:
    """Whether a raylet listens there; a frozen one still does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _listens(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0


@contextlib.contextmanager
def ray_head(
    *,
    token: str | None = None,
    python: str = sys.executable,
    port: int | None = None,
    environ: Mapping[str, str] | None = None,
    store: int = STORE_BYTES,
    start: bool = True,
) -> Iterator[RayHead]:
    """A head for the length of a block."""
    head = RayHead(token=token, python=python, port=port, environ=environ, store=store)
    try:
        if start:
            head.start()
        yield head
    finally:
        head.stop()
