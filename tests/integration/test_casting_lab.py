"""Casting between hosts: networks, file systems, processes and names of their own."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Host, Lab, lab
from tests.support.processes import until

pytestmark = [pytest.mark.ray, pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 2**20
SIZE = 1024 * MIB
READER = """
import json, ray, sys
ray.init(sys.argv[1], namespace="castray", log_to_driver=False, configure_logging=False)
found = {}
for name in sys.argv[2:]:
    node = ray.get_actor("castray:1:" + name)
    found[name] = ray.get(node.read.remote(0, 100, False, 0.0))["messages"]
print(json.dumps(found))
"""
LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
s.settimeout(20)
print("there", flush=True)
print(s.recvfrom(1000)[0].decode())
"""
SAY = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(b'"by udp"', (sys.argv[1], int(sys.argv[2])))
"""


class _Daemon:
    """castrayd on the first host, used as an operator would."""

    def __init__(self, host: Host, python: str, address: str) -> None:
        self._host = host
        self._socket = str(host.data / "s")
        environ = {
            "PYTHONPATH": str(Path.cwd()),
            "CASTRAYD_SESSION__PYTHON": python,
            "CASTRAYD_CASTING__DATA_DIR": str(host.data / "cast"),
            "CASTRAYD_CASTING__DISK_RESERVE_BYTES": "0",
            "CASTRAYD_CASTING__PATIENCE_S": "20",
            "CASTRAYD_RAY__DISCOVERY": "[]",
        }
        self._process = host.run(
            sys.executable, "-m", "castrayd", "run", f"--address={address}",
            f"--socket={self._socket}", f"--state-dir={host.data / 'state'}", "--demo-nodes=4",
            environ=environ, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ctl(self, *arguments: str) -> Any:
        main = "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        main += "from castrayd.cli.castrayctl import main; main()"
        command = [sys.executable, "-c", main, str(Path.cwd()), "--socket", self._socket, "--json"]
        return json.loads(self._host.output(*command, *arguments, timeout_s=120))


@pytest.fixture(scope="module")
def hosts(cluster_python: str) -> Iterator[Lab]:
    data = Path(tempfile.mkdtemp(prefix="castrayd-lab-", dir="/var/tmp"))
    try:
        with lab(4, cluster_python, data) as made:
            yield made
    finally:
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(hosts: Lab, cluster_python: str) -> _Daemon:
    """One that has all four demo nodes ready, each on a host of its own."""
    return daemon_on(hosts, cluster_python)


def daemon_on(hosts: Lab, python: str) -> _Daemon:
    """Start one, and wait until a casting node is ready on each of four hosts."""
    made = _Daemon(hosts.hosts[0], python, hosts.address)
    deadline = time.monotonic() + 60
    while not _there(made):
        assert time.monotonic() < deadline, "no four casting nodes"
        time.sleep(0.5)
    return made


def _there(daemon: _Daemon) -> bool:
    try:
        status = daemon.ctl("status")
    except AssertionError:
        return False
    four = (status["cluster"] or {}).get("nodes_alive") == 4
    return bool(four and status["casting"]["ready"] == 4)


def _by_host(daemon: _Daemon) -> dict[str, Any]:
    return {node["hostname"]: node for node in daemon.ctl("node", "list")["nodes"]}


def test_messages_and_datagrams_cross_hosts(
    hosts: Lab, daemon: _Daemon, cluster_python: str
) -> None:
    """Read back by an independent driver on another host; UDP in and out, also as broadcast."""
    nodes = _by_host(daemon)
    assert set(nodes) == {"h1", "h2", "h3", "h4"}
    names = [nodes[host]["name"] for host in ("h1", "h2", "h3", "h4")]
    cast = daemon.ctl("message", "send", "--to", "all", "--from", names[0], '"to all"')
    assert (cast["delivered"], cast["failed"]) == (3, 0)
    _, second, third, fourth = hosts.hosts
    two = nodes["h2"]
    for address in (two["address"], "10.77.0.255"):
        third.output(sys.executable, "-c", SAY, address, str(two["port"]))
    read = json.loads(fourth.output(cluster_python, "-c", READER, hosts.address, *names))
    bodies = {name: [json.loads(m["body"]) for m in found] for name, found in read.items()}
    assert bodies == {
        names[0]: [], names[1]: ["to all", "by udp", "by udp"],
        names[2]: ["to all"], names[3]: ["to all"],
    }  # fmt: skip
    assert read[names[1]][1]["from"].startswith(f"udp:{third.address}:")

    listener = second.run(sys.executable, "-c", LISTEN, "9998", stdout=subprocess.PIPE)
    assert listener.stdout is not None
    assert listener.stdout.readline() == b"there\n"
    cast = daemon.ctl("message", "send", "--to", "udp:10.77.0.255:9998", "--from", names[3], "1")
    assert cast["receipts"][0]["outcome"] == "sent"
    assert listener.communicate(timeout=20)[0] == b"1\n"


def test_broadcast_leaves_the_sender_once(hosts: Lab, daemon: _Daemon) -> None:
    """Three hosts have the file, and the sender's link has carried it hardly more than once."""
    nodes = _by_host(daemon)
    first, *others = hosts.hosts
    source = f"{nodes['h1']['roots']['files']}/big.bin"
    first.output("sh", "-c", f"head -c {SIZE} /dev/urandom > {source}")
    before = first.sent_bytes()
    done = daemon.ctl("file", "send", f"{nodes['h1']['name']}:files:big.bin", "--to", "all")
    carried = first.sent_bytes() - before

    assert done["state"] == "done"
    assert SIZE <= carried <= 1.1 * SIZE
    digest = first.output("sha256sum", source).split()[0]
    assert done["sha256"] == digest
    for host in others:
        copy = f"{nodes[host.name]['roots']['files']}/big.bin"
        assert host.output("sha256sum", copy).split()[0] == digest
        assert host.output("sh", "-c", f"ls -A {Path(copy).parent}").split() == ["big.bin"]


def test_upload_crosses_hosts(hosts: Lab, daemon: _Daemon) -> None:
    """A file of the daemon's host, of no casting node, arrives at another host's."""
    nodes = _by_host(daemon)
    first, *_, last = hosts.hosts
    first.output("sh", "-c", f"echo hello > {first.data}/note")
    done = daemon.ctl("file", "send", f"{first.data}/note", "--to", nodes["h4"]["name"])
    assert done["recipients"][0]["sha256"] == hashlib.sha256(b"hello\n").hexdigest()
    assert last.output("cat", f"{nodes['h4']['roots']['files']}/note") == "hello\n"


def test_dead_host_is_named_and_the_others_have_it(hosts: Lab, daemon: _Daemon) -> None:
    """A host that loses its power in the middle of a transfer fails alone."""
    nodes = _by_host(daemon)
    pinned = daemon.ctl("node", "create", "pinned", "--hostname", "h4", "--optional")
    assert pinned["hostname"] == "h4"
    recipients = [nodes["h2"]["name"], nodes["h3"]["name"], "pinned"]
    first, second, _third, last = hosts.hosts
    source = f"{nodes['h1']['roots']['files']}/slow.bin"
    first.output("sh", "-c", f"head -c {64 * MIB} /dev/urandom > {source}")
    sent = daemon.ctl(
        "file", "send", f"{nodes['h1']['name']}:files:slow.bin",
        *(f"--to={name}" for name in recipients),
        "--bandwidth", str(4 * MIB), "--detach",
    )  # fmt: skip
    until(lambda: daemon.ctl("transfer", "show", sent["id"])["bytes_verified"], 30, "a first chunk")
    last.end()
    assert daemon.ctl("transfer", "show", sent["id"])["state"] == "running"
    until(
        lambda: daemon.ctl("transfer", "show", sent["id"])["state"] not in
        {"queued", "running", "interrupted"},
        200, "an end",
    )  # fmt: skip
    done = daemon.ctl("transfer", "show", sent["id"])
    states = {
        p["recipient"]: (p["state"], (p["error"] or {}).get("type")) for p in done["recipients"]
    }
    assert done["state"] == "partial"
    assert states == {
        nodes["h2"]["name"]: ("done", None),
        nodes["h3"]["name"]: ("done", None),
        "pinned": ("failed", "unreachable"),
    }
    copy = f"{nodes['h2']['roots']['files']}/slow.bin"
    assert second.output("sha256sum", copy).split()[0] == done["sha256"]
