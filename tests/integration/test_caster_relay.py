"""Files between casting nodes on a real cluster that has no castrayd: relayed, resumed, ended."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import MARK, kill, new_mark, reap_marked, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).parents[2]
NODES = ("a", "b", "c", "d")
CHUNK = 4 << 20
WINDOW = 4
SIZE = (64 << 20) + 12_345
SLOW = 20 << 20
"""Bytes a second: three seconds for the file, in which to kill somebody."""

_SCRIPT = """
import json, os, sys, importlib.util
repository, folder, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
sys.path.insert(0, repository)
import castrayd.driver.caster
from castrayd.driver.caster.incoming import Incoming
from castrayd.driver.caster.outgoing import Outgoing
from castrayd.driver.caster.roots import Roots
sys.path.remove(repository)
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.cloudpickle.register_pickle_by_value(castrayd.driver.caster)

class Node:
    def __init__(self, folder, roots):
        os.makedirs(folder + "/files", exist_ok=True)
        self.roots = Roots({root: {"path": folder + "/files", "write": True} for root in roots})
        self.incoming = Incoming(self.roots, folder, 0)
        self.outgoing = {}
        self.relayed = 0
    def facts(self):
        return {"pid": os.getpid(), "castrayd": bool(importlib.util.find_spec("castrayd")),
                "relayed": self.relayed}
    def send(self, plan):
        self.outgoing[plan["id"]] = Outgoing(plan, self.roots, "files")
        self.outgoing[plan["id"]].start()
    def progress(self, id):
        return self.outgoing[id].progress()
    def sending(self, id):
        return None
    def cancel(self, id):
        self.outgoing[id].cancel()
    def file_begin(self, spec):
        return self.incoming.begin(spec)
    def file_take(self, id, chunk, refs, relay):
        self.relayed += relay
        return self.incoming.fetch(id, chunk, refs, relay)
    def file_finish(self, id, sha256, chunks, mode):
        return self.incoming.finish(id, sha256, chunks, mode)
    def file_abandon(self, id):
        return self.incoming.abandon(id)

groups = {"control": ("facts", "send", "sending", "progress", "cancel"),
          "data": ("file_begin", "file_take", "file_finish", "file_abandon")}
for group, methods in groups.items():
    for method in methods:
        getattr(Node, method).__ray_concurrency_group__ = group

size = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
for _ in names[1:]:
    cluster.add_node(wait=False, **size)
cluster.wait_for_nodes(60)
ray.init(cluster.address, namespace="files", log_to_driver=False)
places = sorted((n["NodeID"] for n in ray.nodes()), key=lambda i: i != cluster.head_node.node_id)
actors = {}
for name, place in zip(names, places):
    actor = ray.remote(
        num_cpus=0, max_restarts=-1, concurrency_groups={"control": 4, "data": 8}
    )(Node)
    actors[name] = actor.options(
        name="castray-" + name,
        scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=False),
    ).remote(folder + "/" + name, ["files"] if name == "d" else ["files", "extra"])
ray.get([actor.facts.remote() for actor in actors.values()])
print("up", flush=True)
for line in sys.stdin:
    name, method, *arguments = json.loads(line)
    try:
        answer = ray.get(getattr(actors[name], method).remote(*arguments), timeout=20)
    except Exception as error:
        answer = {"raised": repr(error)[:300]}
    print("answer " + json.dumps(answer), flush=True)
"""


class Cast:
    """Four casting nodes, each on a raylet of its own, asked through one driver."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._plans = 0

    def line(self, beginning: str) -> str:
        """Return the driver's next line of that kind; Ray prints others."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(beginning):
                return line[len(beginning) :]
        raise AssertionError("the driver has ended: " + (self._folder / "err").read_text()[-2000:])

    def ask(self, node: str, method: str, *arguments: Any) -> Any:
        """Call a method of a casting node."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([node, method, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self.line("answer "))

    def files(self, node: str) -> Path:
        """The folder that a node's root is."""
        return self._folder / node / "files"

    def source(self, size: int = SIZE) -> str:
        """Make a file to send; returns its sha256."""
        data = os.urandom(1 << 16) * (size // (1 << 16) + 1)
        # chunks differ, or a mix-up of two would not be seen
        data = b"".join(i.to_bytes(4, "big") + data[i * CHUNK : (i + 1) * CHUNK - 4]
                        for i in range(-(-size // CHUNK)))[:size]  # fmt: skip
        (self.files("a") / "source").write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def plan(self, *names: str, **more: Any) -> dict[str, Any]:
        """A transfer of the source from node a, not begun."""
        self._plans += 1
        recipients = [{"name": name, "actor": f"castray-{name}"} for name in names]
        return {
            "id": f"t{self._plans}", "source": "files:source", "path": f"files:in/t{self._plans}",
            "chunk_bytes": CHUNK, "window": WINDOW, "if_exists": "refuse", "rate": None,
            "patience_s": 60, "recipients": recipients, **more,
        }  # fmt: skip

    def send(self, plan: dict[str, Any]) -> None:
        """Have node a begin it."""
        assert self.ask("a", "send", plan) is None

    def ended(self, plan: dict[str, Any], timeout_s: float = 45) -> dict[str, Any]:
        """Wait for its end; returns the progress, recipients by name."""
        seen: dict[str, Any] = {}

        def has_ended() -> bool:
            seen.update(self.ask("a", "progress", plan["id"]))
            return bool(seen["state"] != "running")

        until(has_ended, timeout_s, "an end")
        seen["by"] = {one["recipient"]: one for one in seen["recipients"]}
        return seen

    def under_way(self, name: str, count: int) -> tuple[str, dict[str, Any]]:
        """Send slowly to three until one has so many bytes; returns the sha256 and the plan."""
        sha256, plan = self.source(), self.plan("b", "c", "d", rate=SLOW)
        self.send(plan)
        self.verified(plan, name, count)
        return sha256, plan

    def verified(self, plan: dict[str, Any], name: str, count: int) -> None:
        """Wait until a recipient has so many bytes."""

        def has() -> bool:
            found = self.ask("a", "progress", plan["id"])["recipients"]
            return any(
                one["recipient"] == name and (one["bytes_verified"] or 0) >= count for one in found
            )

        until(has, 20, f"{count} bytes at {name}")

    def arrived(self, name: str, plan: dict[str, Any]) -> str:
        """The sha256 of what has come, under its final name and with nothing beside it."""
        there = self.files(name) / plan["path"].partition(":")[2]
        assert not list(there.parent.glob(".castray-*"))
        return hashlib.sha256(there.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def cast(cluster_python: str) -> Iterator[Cast]:
    mark = new_mark()
    folder = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON"))}
    environ |= {MARK: mark, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environ |= {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [cluster_python, "-c", _SCRIPT, str(REPOSITORY), str(folder), ",".join(NODES)],
            env=environ,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,
        )
    try:
        one = Cast(process, folder)
        one.line("up")
        yield one
    finally:
        reap_marked(mark, 15)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        shutil.rmtree(folder, ignore_errors=True)


def _again(cast: Cast, node: str, pid: int) -> Callable[[], bool]:
    """Whether a node that was killed answers again, as another process."""
    return lambda: bool(cast.ask(node, "facts").get("pid", pid) != pid)


def test_file_arrives_at_three(cast: Cast) -> None:
    """Each chunk leaves the sender once; the recipients in turn send it on."""
    sha256 = cast.source()
    plan = cast.plan("b", "c", "d")
    began = time.monotonic()
    cast.send(plan)
    end = cast.ended(plan)

    assert end["state"] == "done", end
    assert (end["bytes_total"], end["sha256"], end["error"]) == (SIZE, sha256, None)
    assert end["by"]["b"] == {
        "recipient": "b", "state": "done", "bytes_verified": SIZE, "bytes_sent": SIZE,
        "sha256": sha256, "path": plan["path"], "error": None, "skipped": False,
    }  # fmt: skip
    assert [cast.arrived(name, plan) for name in "bcd"] == [sha256] * 3
    facts = [cast.ask(name, "facts") for name in "bcd"]
    assert sorted(one["relayed"] for one in facts) == [5, 6, 6]
    assert not any(one["castrayd"] for one in facts)
    assert time.monotonic() - began < 30


def test_killed_recipient_goes_on_where_it_was(cast: Cast) -> None:
    sha256, plan = cast.under_way("c", 5 * CHUNK)
    kill(cast.ask("c", "facts")["pid"])
    end = cast.ended(plan)

    assert end["state"] == "done", end
    assert [cast.arrived(name, plan) for name in "bcd"] == [sha256] * 3
    assert end["by"]["c"]["bytes_sent"] <= SIZE + WINDOW * CHUNK
    assert all(end["by"][name]["bytes_sent"] <= SIZE + WINDOW * CHUNK for name in "bd")
    assert all(one["bytes_verified"] == SIZE for one in end["recipients"])


def test_frozen_recipient_holds_up_nobody_for_long(cast: Cast) -> None:
    """The others have the file long before a call to it times out; thawed, it gets the rest."""
    sha256, plan = cast.under_way("c", 5 * CHUNK)
    pid = cast.ask("c", "facts")["pid"]
    kill(pid, signal.SIGSTOP)
    try:
        for name in "bd":
            cast.verified(plan, name, SIZE)
    finally:
        kill(pid, signal.SIGCONT)
    end = cast.ended(plan)

    assert end["state"] == "done", end
    assert [cast.arrived(name, plan) for name in "bcd"] == [sha256] * 3
    assert end["by"]["c"]["bytes_sent"] <= SIZE + WINDOW * CHUNK


def test_killed_sender_goes_on_where_it_was(cast: Cast) -> None:
    """Given the same plan again."""
    sha256, plan = cast.under_way("b", 8 * CHUNK)
    pid = cast.ask("a", "facts")["pid"]
    kill(pid)
    until(_again(cast, "a", pid), 30, "the sender again")
    cast.send(plan)
    end = cast.ended(plan)

    assert end["state"] == "done", end
    assert end["sha256"] == sha256
    assert [cast.arrived(name, plan) for name in "bcd"] == [sha256] * 3
    assert all(one["bytes_sent"] <= SIZE - 5 * CHUNK for one in end["recipients"])
    cast.send(plan)
    assert cast.ended(plan)["by"]["b"]["bytes_sent"] == 0


def test_recipients_fail_alone(cast: Cast) -> None:
    """One that has no such root, one that is nowhere; the rest get the file."""
    sha256 = cast.source()
    plan = cast.plan("b", "c", "d", "nobody", path="extra:x/y", patience_s=2)
    cast.send(plan)
    end = cast.ended(plan)

    assert end["state"] == "partial", end
    assert end["by"]["d"]["error"]["type"] == "path_forbidden"
    assert end["by"]["nobody"]["error"]["type"] == "unreachable"
    assert end["by"]["nobody"]["bytes_sent"] == 0
    assert [cast.arrived(name, plan) for name in "bc"] == [sha256] * 2


def test_what_is_there_already_is_not_sent(cast: Cast) -> None:
    """Another file of the same size is in the way, or is replaced."""
    sha256 = cast.source(3 * CHUNK + 5)
    for name, same in (("b", True), ("c", False)):
        content = (cast.files("a") / "source").read_bytes()
        (cast.files(name) / "there").write_bytes(content if same else bytes(len(content)))
    plan = cast.plan("b", "c", path="files:there")
    cast.send(plan)
    end = cast.ended(plan)
    assert end["state"] == "partial", end
    assert end["by"]["b"]["skipped"]
    assert end["by"]["b"]["bytes_sent"] == 0
    assert end["by"]["c"]["error"]["type"] == "exists"

    plan = cast.plan("b", "c", path="files:there", if_exists="replace")
    cast.send(plan)
    end = cast.ended(plan)
    assert end["state"] == "done", end
    assert [one["skipped"] for one in end["recipients"]] == [True, False]
    assert cast.arrived("c", plan) == sha256


def test_empty_file_arrives(cast: Cast) -> None:
    sha256 = cast.source(0)
    plan = cast.plan("b", "c")
    cast.send(plan)

    assert cast.ended(plan)["state"] == "done"
    assert cast.arrived("c", plan) == sha256


def test_changed_source_is_never_published(cast: Cast) -> None:
    cast.source()
    plan = cast.plan("b", "c", rate=SLOW)
    cast.send(plan)
    cast.verified(plan, "b", 2 * CHUNK)
    with (cast.files("a") / "source").open("ab") as source:
        source.write(b"more")
    end = cast.ended(plan)

    assert end["state"] == "failed", end
    assert end["error"]["type"] == "source_changed"
    assert {one["error"]["type"] for one in end["recipients"]} == {"source_changed"}
    assert os.listdir(cast.files("b") / "in") == os.listdir(cast.files("c") / "in")
    assert plan["id"] not in str(os.listdir(cast.files("b") / "in"))


def test_missing_source_fails_all(cast: Cast) -> None:
    plan = cast.plan("b", source="files:nothing")
    cast.send(plan)
    end = cast.ended(plan)

    assert (end["state"], end["error"]["type"], end["bytes_total"]) == ("failed", "not_found", None)
    assert end["by"]["b"]["error"]["type"] == "not_found"


def test_cancelled_leaves_nothing(cast: Cast) -> None:
    cast.source()
    plan = cast.plan("b", "c", "nobody", rate=SLOW)
    cast.send(plan)
    cast.verified(plan, "b", 2 * CHUNK)
    cast.ask("a", "cancel", plan["id"])
    end = cast.ended(plan, 10)

    assert end["state"] == "cancelled", end
    assert {one["state"] for one in end["recipients"]} == {"cancelled"}
    assert plan["id"] not in str([os.listdir(cast.files(name) / "in") for name in "bc"])
