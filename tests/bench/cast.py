"""What casting costs: `python -m tests.bench.cast` prints each figure beside its measure.

Needs root, and CASTRAY_TEST_CLUSTER_PYTHON. Both sides of a row are taken in turns in one run, on
the same raylets: four on this machine, and four hosts in namespaces for what crosses links.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio

from tests.integration.test_casting_lab import daemon_on
from tests.support.casting import casting, cluster_of_four, ready
from tests.support.lab import Lab, lab
from tests.support.ray import RayHead

MIB: Final = 2**20
ROUNDS: Final = 3
CASTS: Final = {32: 600, 1: 200}
"""How many, by how many are under way at once."""
FILE_MIB: Final = 512
BROADCAST_MIB: Final = 384

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
    with cluster_of_four(python) as cluster:
        rows += anyio.run(_on_one_machine, cluster, python)
    folder = Path(tempfile.mkdtemp(prefix="castrayd-lab-", dir="/var/tmp"))
    try:
        with lab(4, python, folder) as hosts:
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
            rows.append(await _file(daemon, nodes))
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


async def _file(daemon: Any, nodes: list[Any]) -> tuple[str, float, float, bool]:
    """Send a file to one node, to disk and synced; beside it cp and sync."""
    source = Path(nodes[0]["roots"]["files"]) / "bench.bin"
    with source.open("wb") as file:
        for _ in range(FILE_MIB):
            file.write(os.urandom(MIB))
    copied, sent = [], []
    for number in range(ROUNDS):
        target = source.with_name(f"copy-{number}")
        began = time.perf_counter()
        subprocess.run(["cp", source, target], check=True)
        subprocess.run(["sync", target], check=True)
        copied.append(time.perf_counter() - began)
        target.unlink()
        body = {
            "source": {"node": nodes[0]["name"], "path": "files:bench.bin"},
            "to": [nodes[1]["name"]],
            "path": f"files:sent-{number}",
        }
        began = time.perf_counter()
        _, one = await daemon.ask("POST", "/api/transfers", body)
        while one["state"] in {"queued", "running", "interrupted"}:
            await anyio.sleep(0.02)
            one = await daemon.get(f"/api/transfers/{one['id']}")
        sent.append(time.perf_counter() - began)
        assert one["state"] == "done", one
        (Path(nodes[1]["roots"]["files"]) / f"sent-{number}").unlink()
    print(f"{FILE_MIB} MiB to one, s: cp and sync {copied}, castrayd {sent}")
    ratio = statistics.median(copied) / statistics.median(sent)
    return ("file to one node, speed of cp and sync", ratio, 0.8, True)


def _on_hosts(hosts: Lab, python: str) -> list[tuple[str, float, float, bool]]:
    daemon = daemon_on(hosts, python)
    first = hosts.hosts[0]
    node = next(n for n in daemon.ctl("node", "list")["nodes"] if n["hostname"] == first.name)
    size = BROADCAST_MIB * MIB
    put, sent, carried = [], [], []
    for number in range(ROUNDS):
        source = f"{node['roots']['files']}/b{number}"
        first.output("sh", "-c", f"head -c {size} /dev/urandom > {source}")
        put.append(float(first.output(python, "-c", _PUT, hosts.address, source)))
        before = first.sent_bytes()
        one = daemon.ctl("file", "send", f"{node['name']}:files:b{number}", "--to", "all")
        carried.append((first.sent_bytes() - before) / size)
        assert one["state"] == "done", json.dumps(one)
        sent.append(_between(one["created_at"], one["finished_at"]))
        for host in hosts.hosts:
            host.output("sh", "-c", f"rm -f {host.data}/cast/*/*/files/b{number}")
    print(f"{BROADCAST_MIB} MiB to 3 hosts, s: one object {put}, castrayd {sent}")
    time_ratio = statistics.median(sent) / statistics.median(put)
    return [
        ("broadcast to 3 hosts, bytes on the sender's link, of the file", max(carried), 1.1, False),
        ("broadcast to 3 hosts, time, of one object fetched by all", time_ratio, 0.25, False),
    ]


def _between(first: str, last: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


if __name__ == "__main__":
    main()
