"""Hosts on one machine: namespaces of their own for network, processes, files and name.

One real Ray cluster over real links: a bridge in a namespace, a veth pair a host. `/tmp` and
`/dev/shm` are each host's own; `/lab` is where it keeps what lasts. Needs root.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import MARK, kill, marked, new_mark, reap_marked, until

__all__ = ("Host", "Lab", "lab")

START_S = 60.0
STORE_BYTES = 500_000_000
GCS = "10.77.0.1:6379"
_OWN = """
hostname {name}
mount --make-rprivate /
mount -t tmpfs -o size=4g tmpfs /tmp
mount -t tmpfs -o size=3g tmpfs /dev/shm
mkdir -p {data} && mount -t tmpfs -o size=3g tmpfs {data}
exec sleep 3600
"""


class Host:
    """One host; `run` starts a process on it."""

    def __init__(self, number: int, mark: str, data: Path) -> None:
        self.name = f"h{number}"
        self.address = f"10.77.0.{number}"
        self.data = data
        """Its own file system, at the same path on every host."""
        self._mark = mark
        self.netns = f"cast-{os.getpid()}-{number}"
        self._init: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Make its namespaces; the link is there already."""
        script = _OWN.format(name=self.name, data=self.data)
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts",
               "--ipc", "sh", "-c", script]  # fmt: skip
        command = ["ip", "netns", "exec", self.netns, *own]
        self._init = subprocess.Popen(command, env=self._environ(), stdin=subprocess.DEVNULL)
        until(lambda: self._pid(), 10, f"the first process of {self.name}")
        until(lambda: self.run("findmnt", str(self.data)).wait() == 0, 10, "its file system")

    def _environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "CASTRAYD_"))}
        return {**kept, MARK: self._mark, "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(self.data)}  # fmt: skip

    def _pid(self) -> int | None:
        """The pid, as this machine counts, of what is the first process there."""
        assert self._init is not None
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        return int(children.split()[0]) if children.split() else None

    def run(
        self, *command: str, environ: dict[str, str] | None = None, **options: object
    ) -> "subprocess.Popen[bytes]":
        """Start a process on this host."""
        enter = ["nsenter", "-t", str(self._pid()), "-m", "-p", "-n", "-u", "-i"]
        env = {**self._environ(), **(environ or {})}
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
        process = subprocess.Popen([*enter, *command], env=env, **given)  # type: ignore[call-overload]
        self._started.append(process)
        return process  # type: ignore[no-any-return]

    def output(self, *command: str, timeout_s: float = 60) -> str:
        """Run a command on this host; returns what it says."""
        process = self.run(*command, stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, (command, out)
        return out.decode()

    def sent_bytes(self) -> int:
        """What its link has carried from it."""
        return int(self.output("cat", "/sys/class/net/eth0/statistics/tx_bytes"))

    def limit(self, rate: str) -> None:
        """Have its link carry no more from it, as tc(8) writes rates."""
        shaped = ["rate", rate, "burst", "2mb", "latency", "50ms"]
        command = [
            "tc",
            "-n",
            self.netns,
            "qdisc",
            "replace",
            "dev",
            "eth0",
            "root",
            "tbf",
            *shaped,
        ]
        subprocess.run(command, check=True, capture_output=True)

    def end(self) -> None:
        """End it, as a power cut does."""
        if self._init is not None:
            with contextlib.suppress(OSError):
                if pid := self._pid():
                    kill(pid)
            self._init.kill()
            self._init.wait()
            self._init = None
        for process in self._started:
            process.kill()  # what entered a host that is gone has ended with it
            process.wait()


class Lab:
    """Several hosts and the Ray cluster that they form; the first has its head."""

    def __init__(self, hosts: list[Host], python: str, store: int) -> None:
        self.hosts = hosts
        self.address = GCS
        self._python = python
        self._store = f"--object-store-memory={store}"

    def start_ray(self) -> None:
        """Start the head, then the others; returns when all are alive."""
        head, *others = self.hosts
        self._start(head, "--head", "--port=6379", "--include-dashboard=false")
        self._wait_raylet(head)
        started = {host: self._start(host, f"--address={GCS}") for host in others}
        for host, process in started.items():
            self._wait_raylet(host)
            assert process.poll() is None, f"ray has ended on {host.name}"
        head.output(self._python, "-c", _ALIVE, GCS, str(len(self.hosts)))

    def _start(self, host: Host, *where: str) -> "subprocess.Popen[bytes]":
        return host.run(
            self._python, "-c", "from ray.scripts.scripts import main; main()",
            "start", *where, f"--node-ip-address={host.address}", "--num-cpus=1",
            self._store, "--disable-usage-stats", "--block",
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _wait_raylet(self, host: Host) -> None:
        deadline = time.monotonic() + START_S
        while "/raylet/raylet " not in host.output("ps", "ax", "-o", "args"):
            assert time.monotonic() < deadline, f"no raylet on {host.name}"
            time.sleep(0.5)


_ALIVE = """
import ray, sys, time
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
until = time.monotonic() + 40
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    assert time.monotonic() < until
    time.sleep(0.1)
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def lab(count: int, python: str, data: Path, store: int = STORE_BYTES) -> Iterator[Lab]:
    """So many hosts, a Ray cluster on them; leaves nothing behind."""
    mark, switch = new_mark(), f"cast-{os.getpid()}-sw"
    hosts = [Host(number, mark, data) for number in range(1, count + 1)]
    spaces = [switch, *(host.netns for host in hosts)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for number, host in enumerate(hosts, 1):
            _connect(host, number, switch)
            host.start()
        made = Lab(hosts, python, store)
        made.start_ray()
        yield made
    finally:
        for host in hosts:
            host.end()
        reap_marked(mark)
        deadline = time.monotonic() + 10
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def _connect(host: Host, number: int, switch: str) -> None:
    _ip("netns", "add", host.netns)
    _ip("link", "add", "eth0", "netns", host.netns, "type", "veth",
        "peer", "name", f"p{number}", "netns", switch)  # fmt: skip
    _ip("-n", switch, "link", "set", f"p{number}", "master", "br0")
    _ip("-n", switch, "link", "set", f"p{number}", "up")
    _ip("-n", host.netns, "addr", "add", f"{host.address}/24", "brd", "+", "dev", "eth0")
    for name in ("eth0", "lo"):
        _ip("-n", host.netns, "link", "set", name, "up")
