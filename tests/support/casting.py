"""Casting nodes for tests: a cluster whose Python has no castrayd, and a daemon that uses it."""

import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.daemon import Daemon, running_daemon
from tests.support.ray import STORE_BYTES, RayHead, ray_head

__all__ = (
    "casting", "cluster_of_four", "driven", "killed", "names", "read_independently", "ready",
    "strange",
)  # fmt: skip

_DRIVER = """
import json, ray, sys
address, name, method, *arguments = sys.argv[1:]
ray.init(address, namespace="castray", log_to_driver=False, configure_logging=False)
node = ray.get_actor("castray:1:" + name)
print(json.dumps(ray.get(getattr(node, method).remote(*map(json.loads, arguments)))))
"""

_NAMES = """
import json, ray, sys
ray.init(sys.argv[1], namespace="castray", log_to_driver=False, configure_logging=False)
print(json.dumps([n.removeprefix("castray:1:") for n in ray.util.list_named_actors()]))
"""

_KILL = """
import ray, sys
ray.init(sys.argv[1], namespace="castray", log_to_driver=False, configure_logging=False)
ray.kill(ray.get_actor("castray:1:" + sys.argv[2]), no_restart=True)
"""

_STRANGE = """
import json, ray, sys
ray.init(sys.argv[1], namespace="castray", log_to_driver=False, configure_logging=False)
class Stranger:
    def describe(self):
        return {"hello": 1}
    def deliver(self, messages):
        return []
    def read(self, *_):
        return {"messages": "x" * (70 << 20)}
    def files(self, *_):
        return {1}
    def datagram(self, *_):
        return json.loads("[" * 900 + "]" * 900)
    def host(self):
        return 1
named = dict(name="castray:1:" + sys.argv[2], lifetime="detached", num_cpus=0)
ray.get(ray.remote(Stranger).options(**named).remote().describe.remote())
"""

_REGISTERED = """
import ray, sys, time
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.1)
"""


@contextlib.contextmanager
def cluster_of_four(
    cluster_python: str, *, port: int | None = None, store: int = STORE_BYTES
) -> Iterator[RayHead]:
    """Four raylets on this machine, of a Python without castrayd."""
    with ray_head(python=cluster_python, port=port, store=store) as head:
        for _ in range(3):
            head.start_raylet()
        # each accepts before the cluster knows it, and demo nodes are spread over those known
        _run(cluster_python, _REGISTERED, head.address, "4")
        yield head


@asynccontextmanager
async def casting(
    cluster: RayHead, python: str, folder: Path, *arguments: str, **settings: str
) -> AsyncIterator[Daemon]:
    environ = {
        **{f"CASTRAYD_CASTING__{key.upper()}": value for key, value in settings.items()},
        "CASTRAYD_SESSION__PYTHON": python,
        "CASTRAYD_CASTING__DATA_DIR": str(folder),
        "CASTRAYD_CASTING__SETTLE_S": "1",
    }
    async with running_daemon(*arguments, address=cluster.address, environ=environ) as daemon:
        await daemon.wait_status("attached", lambda s: s["session"] is not None, 60)
        try:
            yield daemon
        finally:
            await _leave_no_node(daemon)


async def _leave_no_node(daemon: Daemon) -> None:
    """Remove its nodes, however the test ended: the next one's daemon is another owner."""
    with contextlib.suppress(OSError, aiohttp.ClientError, AssertionError):
        me = (await daemon.status())["daemon"]["id"]
        for node in (await daemon.get("/api/nodes"))["nodes"]:
            if node["owner"] == me:
                await daemon.ask("DELETE", f"/api/nodes/{node['name']}")


def driven(cluster: RayHead, python: str, name: str, method: str, *arguments: Any) -> Any:
    """Call a casting node by a driver that is none of castrayd's."""
    return json.loads(
        _run(python, _DRIVER, cluster.address, name, method, *map(json.dumps, arguments))
    )


def names(cluster: RayHead, python: str) -> list[str]:
    """Return the names of all casting nodes, the hidden too, as a driver of others sees them."""
    return list(json.loads(_run(python, _NAMES, cluster.address)))


def killed(cluster: RayHead, python: str, name: str) -> None:
    """End a casting node for good by a driver that is none of castrayd's."""
    _run(python, _KILL, cluster.address, name)


def strange(cluster: RayHead, python: str, name: str) -> None:
    """Make an actor of a casting node's name that answers what no casting node does."""
    _run(python, _STRANGE, cluster.address, name)


def _run(python: str, script: str, *arguments: str) -> bytes:
    """Run a Ray driver to its end; returns what it prints."""
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [python, "-c", script, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=True)
    return done.stdout


def read_independently(cluster: RayHead, python: str, name: str) -> list[dict[str, Any]]:
    """Read an inbox by a driver that is none of castrayd's."""
    answer = driven(cluster, python, name, "read", 0, 100, False, 0.0)
    return [{**one, "body": json.loads(one["body"])} for one in answer["messages"]]


async def ready(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    """Wait until so many of its casting nodes are ready; returns them."""
    await daemon.wait_status(f"{count} ready", lambda s: s["casting"]["ready"] == count, 60)
    return list((await daemon.get("/api/nodes"))["nodes"])
