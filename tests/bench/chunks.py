"""How a file is best cut: `python -m tests.bench.chunks` prints MB/s by chunk and bytes in flight.

Needs CASTRAY_TEST_CLUSTER_PYTHON. The nodes are castrayd's own; the plan that the sender gets is
ours. What `casting.plans` chooses must not be far from the best that there is.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import anyio

from castrayd.casting.plans import CHUNK_BYTES, WINDOW_BYTES, sizes
from tests.support.casting import casting, cluster_of_four, ready
from tests.support.files import MIB, made

STORE_BYTES: Final = 10**9
FILE_BYTES: Final = 512 * MIB
CHUNKS: Final = (1, 4, 8, 16, 32)
"""MiB."""
IN_FLIGHT: Final = (32, 64, 128)
"""MiB."""
ROUNDS: Final = 3
REACH: Final = 0.8
"""Of the best: closer than that, runs on a shared machine are no different."""

_SEND = """
import json, os, ray, sys, time
address, plan, sender, *recipients = sys.argv[1:]
ray.init(address, namespace="castray", log_to_driver=False, configure_logging=False)
sender, *nodes = [ray.get_actor("castray:1:" + name) for name in (sender, *recipients)]
roots = [node["roots"]["files"] for node in ray.get([n.describe.remote() for n in nodes])]
for plan in json.loads(plan):
    began = time.perf_counter()
    ray.get(sender.send.remote({**plan, "recipients": recipients}))
    ray.get(sender.ended.remote(plan["id"], 120.0))
    took = time.perf_counter() - began
    assert ray.get(sender.sending.remote(plan["id"]))["state"] == "done"
    for root in roots:
        os.unlink(root + "/sent")
    print(plan["chunk_bytes"], plan["window"], took, flush=True)
"""


def main() -> None:
    """Print the tables; exit 1 when what is chosen is far from the best."""
    python = os.environ["CASTRAY_TEST_CLUSTER_PYTHON"]
    sys.exit(0 if anyio.run(_tables, python) else 1)


async def _tables(python: str) -> bool:
    good = True
    with (
        cluster_of_four(python, store=STORE_BYTES) as cluster,
        tempfile.TemporaryDirectory(prefix="castrayd-bench-", dir="/var/tmp") as folder,
    ):
        async with casting(cluster, python, Path(folder), "--demo-nodes", "4") as daemon:
            nodes = await ready(daemon, 4)
            made(f"{nodes[0]['roots']['files']}/bench.bin", FILE_BYTES)
            for count in (1, 3):
                names = [node["name"] for node in nodes[: count + 1]]
                good &= _told(count, _speeds(cluster.address, python, names))
    return good


def _speeds(address: str, python: str, names: list[str]) -> dict[tuple[int, int], float]:
    """Return MB/s of file by chunk and window, the median of rounds that take turns."""
    cuts = [(chunk * MIB, max(2, flight // chunk)) for chunk in CHUNKS for flight in IN_FLIGHT]
    plans = [_plan(*cuts[0]), *(_plan(*cut) for _ in range(ROUNDS) for cut in cuts)]
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [python, "-c", _SEND, address, json.dumps(plans), *names]
    lines = subprocess.check_output(command, env=environ, timeout=900, text=True).splitlines()
    seen: dict[tuple[int, int], list[float]] = {}
    for line in [one for one in lines if one[:1].isdigit()][1:]:
        chunk, window, took = line.split()
        seen.setdefault((int(chunk), int(window)), []).append(float(took))
    return {cut: FILE_BYTES / statistics.median(took) / 1e6 for cut, took in seen.items()}


def _plan(chunk: int, window: int) -> dict[str, Any]:
    return {
        "id": os.urandom(8).hex(), "source": "files:bench.bin", "identity": {},
        "path": "files:sent", "chunk_bytes": chunk, "window": window, "if_exists": "refuse",
        "rate": None, "patience_s": 60,
    }  # fmt: skip


def _told(count: int, speeds: dict[tuple[int, int], float]) -> bool:
    best = max(speeds, key=lambda cut: speeds[cut])
    chosen = sizes([STORE_BYTES], None)
    print(f"\nto {count}, MB/s of {FILE_BYTES // MIB} MiB by chunk and window:")
    for cut, speed in speeds.items():
        mark = " best" * (cut == best) + " chosen" * (cut == chosen)
        print(f"  {cut[0] // MIB:3} MiB x {cut[1]:3}  {speed:6.0f}{mark}")
    assert chosen == (CHUNK_BYTES, WINDOW_BYTES // CHUNK_BYTES), "the store is too small"
    ratio = speeds[chosen] / speeds[best]
    print(f"{'ok  ' if ratio >= REACH else 'MISS'} chosen, of the best: {ratio:.2f} x (>= {REACH})")
    return ratio >= REACH


if __name__ == "__main__":
    main()
