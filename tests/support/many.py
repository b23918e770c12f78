"""Many raylets of one real cluster on this machine, in a process of their own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from castrayd.probe.local_node import raylets
from tests.support.processes import MARK, kill, marked, new_mark, reap_marked

__all__ = ("ManyRaylets", "many_raylets")

_SCRIPT = """
import json, sys
from ray.cluster_utils import Cluster
size = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=size)
size.pop("include_dashboard")
for _ in range(int(sys.argv[1]) - 1):
    cluster.add_node(wait=False, **size)
cluster.wait_for_nodes(120)
print(json.dumps({"address": cluster.address, "head": cluster.head_node.node_id}), flush=True)
sys.stdin.read()
"""


class ManyRaylets:
    """A running cluster of many raylets, all on this host."""

    def __init__(self, address: str, head: str, mark: str) -> None:
        self.address = address
        self._head = head
        self._mark = mark

    def kill_workers(self, count: int) -> set[str]:
        """SIGKILL raylets, never the one that a driver uses; returns their node ids.

        A driver on this host prefers the head's raylet.
        """
        ours = marked(self._mark)
        workers = [r for r in raylets() if r.pid in ours and r.node_id != self._head]
        for raylet in workers[:count]:
            kill(raylet.pid)
        return {raylet.node_id for raylet in workers[:count]}


@contextlib.contextmanager
def many_raylets(count: int) -> Iterator[ManyRaylets]:
    """A cluster of `count` raylets for the length of a block; up in about 45 s."""
    mark = new_mark()
    folder = tempfile.mkdtemp(prefix="cm-", dir="/tmp")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environ |= {MARK: mark, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environ["TMPDIR"] = folder  # Ray's own default is where a developer's cluster lives
    with Path("/dev/null").open("wb") as null:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(count)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=null,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        while line and not line.startswith(b"{"):
            line = process.stdout.readline()
        assert line, "the cluster did not come up"
        facts = json.loads(line)
        yield ManyRaylets(facts["address"], facts["head"], mark)
    finally:
        reap_marked(mark, 15)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(folder, ignore_errors=True)
