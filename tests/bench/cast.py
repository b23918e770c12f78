"""What casting costs: `python -m tests.bench.cast` prints each figure beside its measure.

Needs root, rsync, and CASTRAY_TEST_CLUSTER_PYTHON. Both sides of a row are taken in turns in one
run, on the same raylets: four on this machine, and four hosts in namespaces for what crosses links.
The round that warms up is not counted.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio

from tests.integration.test_casting_lab import daemon_on
from tests.support.casting import casting, cluster_of_four, ready
from tests.support.files import MIB, ended, made
from tests.support.lab import Lab, lab
from tests.support.processes import free_port, until
from tests.support.ray import RayHead

ROUNDS: Final = 3
STORE_BYTES: Final = 10**9
"""Of each raylet: a host's own store is larger yet."""
CASTS: Final = {32: 600, 1: 200}
"""How many, by how many are under way at once."""
FILE_MIB: Final = 512
BROADCAST_MIB: Final = 384
LINK: Final = "1gbit"

_RAW = """
import json, ray, sys, time
address, casts, at_once, *names = sys.argv[1:]
ray.init(address, namespace="castray", log_to_driver=False, configure_logging=False)
nodes = [ray.get_actor("castray:1:" + name) for name in names]
ray.get([n.deliver.remote([["warm-" + str(time.time()), "raw", '"x"']]) for n in nodes])
began, waiting = time.perf_counter(), []
for number in range(int(casts)):
    row = [[f"raw-{began}-{number}", "raw", json.dumps("x" * 100)]]
    waiting.append([n.deliver.remote(row) for n in nodes])
    if len(waiting) >= int(at_once):
        ray.get(waiting.pop(0))
for refs in waiting:
    ray.get(refs)
print(int(casts) / (time.perf_counter() - began))
"""
_PUT = """
import os, pickle, ray, sys, time
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
own = ray.get_runtime_context().get_node_id()
@ray.remote(num_cpus=0)
def size(refs):
    return len(ray.get(refs[0]))
@ray.remote(num_cpus=0)
def warm():
    return 1
others = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != own]
ray.get([warm.options(scheduling_strategy=On(n, soft=False)).remote() for n in others])
data = open(sys.argv[2], "rb").read()
began = time.perf_counter()
ref = ray.put(pickle.PickleBuffer(data))
ray.get([size.options(scheduling_strategy=On(n, soft=False)).remote([ref]) for n in others])
print(time.perf_counter() - began)
"""


def main() -> None:
    """Print every row; exit 1 when one is not reached."""
    python = os.environ["CASTRAY_TEST_CLUSTER_PYTHON"]
    rows: list[tuple[str, float, float, bool]] = []
    with cluster_of_four(python, store=STORE_BYTES) as cluster:
        rows += anyio.run(_on_one_machine, cluster, python)
    folder = Path(tempfile.mkdtemp(prefix="castrayd-lab-", dir="/var/tmp"))
    try:
        with lab(4, python, folder, store=STORE_BYTES) as hosts:
            rows += _on_hosts(hosts, python)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = 0
    for name, ratio, reach, at_least in rows:
        good = ratio >= reach if at_least else ratio <= reach
        missed += not good
        sign = ">=" if at_least else "<="
        print(f"{'ok  ' if good else 'MISS'} {name}: {ratio:.2f} x ({sign} {reach} x)")
    sys.exit(1 if missed else 0)


async def _on_one_machine(cluster: RayHead, python: str) -> list[tuple[str, float, float, bool]]:
    folder = Path(tempfile.mkdtemp(prefix="castrayd-bench-", dir="/var/tmp"))
    options = {"inbox_messages": "100000"}
    try:
        async with casting(cluster, python, folder, "--demo-nodes", "4", **options) as daemon:
            nodes = await ready(daemon, 4)
            names = [node["name"] for node in nodes[1:]]
            rows = []
            for at_once, reach in ((32, 0.8), (1, 0.3)):
                raw, ours = [], []
                for _ in range(ROUNDS):
                    raw.append(_raw(cluster, python, names, at_once))
                    ours.append(await _fan_out(daemon, names, at_once))
                print(f"fan-out to 3, {at_once} at once, casts/s: raw {raw}, castrayd {ours}")
                name = f"message fan-out with receipts, {at_once} at once, of raw actor calls"
                ratio = statistics.median(ours) / statistics.median(raw)
                rows.append((name, ratio, reach, True))
            rows += await _file(daemon, nodes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _raw(cluster: RayHead, python: str, names: list[str], at_once: int) -> float:
    casts = str(CASTS[at_once])
    command = [python, "-c", _RAW, cluster.address, casts, str(at_once), *names]
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return float(subprocess.check_output(command, env=environ, stderr=subprocess.DEVNULL))


async def _fan_out(daemon: Any, names: list[str], at_once: int) -> float:
    """One at a time costs a request over HTTP each, beside calls that wait for nothing else."""
    connector = aiohttp.UnixConnector(str(daemon.socket), limit=at_once)
    async with aiohttp.ClientSession("http://castrayd", connector=connector) as web:
        left = list(range(CASTS[at_once]))

        async def sender() -> None:
            while left:
                left.pop()
                async with web.post("/api/messages", json={"to": names, "body": "x" * 100}) as got:
                    assert (await got.json())["delivered"] == len(names)

        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(sender)
        return CASTS[at_once] / (time.perf_counter() - began)


async def _file(daemon: Any, nodes: list[Any]) -> list[tuple[str, float, float, bool]]:
    """Send a file to one node, to disk and synced; beside it cp with sync, and rsync."""
    source = Path(nodes[0]["roots"]["files"]) / "bench.bin"
    target = Path(nodes[1]["roots"]["files"]) / "bench.bin"
    made(str(source), FILE_MIB * MIB)
    subprocess.run(["sync", source], check=True)
    took: dict[str, list[float]] = {"cp": [], "rsync": [], "castrayd": []}
    with _rsyncd(source.parent) as url:
        for _ in range(ROUNDS + 1):
            took["cp"].append(_timed(target, "sh", "-c", f"cp {source} {target}; sync {target}"))
            took["rsync"].append(_timed(target, "rsync", "--fsync", f"{url}/bench.bin", target))
            began = time.perf_counter()
            body = {
                "source": {"node": nodes[0]["name"], "path": "files:bench.bin"},
                "to": [nodes[1]["name"]],
            }
            one = (await daemon.ask("POST", "/api/transfers", body))[1]
            one = await ended(daemon, one["id"])
            took["castrayd"].append(time.perf_counter() - began)
            assert one["state"] == "done", one
            target.unlink()
    print(f"{FILE_MIB} MiB to one, s: {took}")
    times = {who: statistics.median(seconds[1:]) for who, seconds in took.items()}
    return [
        ("file to one node, speed of cp and sync", times["cp"] / times["castrayd"], 0.8, True),
        ("file to one node, speed of rsync", times["rsync"] / times["castrayd"], 1.5, True),
    ]


def _timed(target: Path, *command: object) -> float:
    began = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    target.unlink()
    return took


@contextmanager
def _rsyncd(folder: Path) -> Iterator[str]:
    """Serve a folder by rsync's own protocol on loopback: no cipher costs it anything."""
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(f"use chroot = no\n[files]\npath = {folder}\nuid = 0\ngid = 0\n")
        config.flush()
        server = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}",
             f"--config={config.name}"],
        )  # fmt: skip
        url = f"rsync://127.0.0.1:{port}/files"
        try:
            until(lambda: subprocess.call(["rsync", "-q", url]) == 0, 10, "a server of rsync")
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def _on_hosts(hosts: Lab, python: str) -> list[tuple[str, float, float, bool]]:
    """Broadcast over links as fast as memory, where cores are short, and over slow ones."""
    daemon = daemon_on(hosts, python)
    carried, fast = _broadcasts(hosts, daemon, python)
    for host in hosts.hosts:
        host.limit(LINK)
    _, slow = _broadcasts(hosts, daemon, python)
    what = "time, of one object fetched by all"
    return [
        ("broadcast to 3 hosts, bytes on the sender's link, of the file", carried, 1.1, False),
        (f"broadcast to 3 hosts, {what}", fast, 0.25, False),
        # of three copies over the sender's link it leaves one: a third is what can be had
        (f"broadcast to 3 hosts over {LINK}/s, {what}", slow, 0.45, False),
    ]


def _broadcasts(hosts: Lab, daemon: Any, python: str) -> tuple[float, float]:
    """Return the most bytes on the sender's link, of the file, and the time, of one object's."""
    first = hosts.hosts[0]
    node = next(n for n in daemon.ctl("node", "list")["nodes"] if n["hostname"] == first.name)
    size = BROADCAST_MIB * MIB
    put, sent, carried = [], [], []
    for _ in range(ROUNDS + 1):
        source = f"{node['roots']['files']}/b"
        first.output("sh", "-c", f"head -c {size} /dev/urandom > {source}")
        put.append(float(first.output(python, "-c", _PUT, hosts.address, source)))
        before = first.sent_bytes()
        one = daemon.ctl("file", "send", f"{node['name']}:files:b", "--to", "all")
        carried.append((first.sent_bytes() - before) / size)
        assert one["state"] == "done", json.dumps(one)
        sent.append(_between(one["created_at"], one["finished_at"]))
        for host in hosts.hosts:
            host.output("sh", "-c", f"rm -f {host.data}/cast/*/*/files/b")
    print(f"{BROADCAST_MIB} MiB to 3 hosts, s: one object {put}, castrayd {sent}")
    return max(carried), statistics.median(sent[1:]) / statistics.median(put[1:])


def _between(first: str, last: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


if __name__ == "__main__":
    main()
