"""Twenty hosts that cannot attach, one log: who, why, where, since when, is found by fields."""

import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import peers
from tests.support.daemon import Daemon, running_daemon
from tests.support.fake_head import fake_head

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

ATTEMPT = "castray.connection.attempt"
CONFIG = """
[backoff]
initial_s = 20
[deadlines]
local_node_s = 0.5
[session]
python = "/nonexistent"  # none gets so far, and none needs a session to stand by
"""
AT_ONCE = 4
"""So many start together: a busy machine must not look like a slow network."""
CLOSE_S, QUIET_S = 1.0, 3.0

_SILENT_DNS = (
    "ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up;"
    "ip addr add 192.0.2.1/24 dev d0;"
    "ip neigh add 192.0.2.53 lladdr 02:00:00:00:00:01 dev d0;"
    "echo nameserver 192.0.2.53 >$0; mount --bind $0 /etc/resolv.conf"
)
_NO_DNS = "echo hosts: files >$0; mount --bind $0 /etc/nsswitch.conf"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one host."""

    kind: str
    phase: str
    peer: AbstractAsyncContextManager[str] | None = None
    address: str = "{}"
    environ: Mapping[str, str] = field(default_factory=dict)
    network: str | None = None
    """Commands that make a network of its own."""


def _faults(folder: Path) -> list[Fault]:
    """Twenty different ones, each a real cause."""
    somewhere = "192.0.2.1:6379"
    token, tls = {"RAY_AUTH_TOKEN": "w" * 40}, {"RAY_USE_TLS": "1"}
    stranger = {"RAY_TLS_CA_CERT": f"{folder}/none.pem"}
    ours = {"CASTRAYD_SESSION__PYTHON": sys.executable}  # it has a Ray to differ
    return [
        Fault("tcp_refused", "tcp", peers.refused()),
        Fault("tcp_timeout", "tcp", peers.full_queue()),
        Fault("host_unreachable", "tcp", None, somewhere, {}, f"ip route add unreachable {_NET}"),
        Fault("network_unreachable", "tcp", None, somewhere, {}, "true"),
        Fault("dns_timeout", "resolve", None, "head.example:6379", {}, _SILENT_DNS),
        Fault("dns_failure", "resolve", None, "head.example:6379", {}, _NO_DNS),
        Fault("tcp_reset", "health", peers.resetting()),
        Fault("not_ray", "health", peers.http_server()),
        Fault("not_ray", "health", peers.banner()),
        Fault("health_timeout", "health", peers.silent()),
        Fault("tls_failure", "health", fake_head(tls=True)),
        Fault("tls_failure", "health", fake_head(), "{}", tls),
        Fault("tls_failure", "health", fake_head(), "{}", {**tls, **stranger}),
        Fault("gcs_not_serving", "health", fake_head(serving=2)),
        Fault("client_server_unavailable", "health", fake_head(), "ray://{}"),
        Fault("auth_missing", "identity", fake_head(token="t" * 40)),
        Fault("auth_rejected", "identity", fake_head(token="t" * 40), "{}", token),
        Fault("version_mismatch", "identity", fake_head(version="1.99.0"), "{}", ours),
        Fault("no_local_node", "local_node", fake_head()),
        Fault("address_invalid", "discover", None, "http://head:8265"),
    ]


_NET = "192.0.2.0/24"


async def _start(fault: Fault, host: str, log: Path, stack: AsyncExitStack) -> Daemon:
    """Start a daemon on a host of that name, with that fault, which logs into the common file."""
    peer = await stack.enter_async_context(fault.peer) if fault.peer else ""
    address = fault.address.format(peer)
    daemon = await stack.enter_async_context(
        running_daemon(address=address, config=CONFIG, environ=fault.environ, launch=False)
    )
    daemon.log_path = log
    network = f"ip link set lo up; {fault.network}" if fault.network else "true"
    unshare = ["unshare", "--uts", *(["--net", "--mount"] if fault.network else [])]
    script = f'echo {host} >/proc/sys/kernel/hostname; {network}; exec "$@"'
    daemon.launch(*unshare, "sh", "-c", script, str(daemon.folder / "resolver"))
    return daemon


def _found(lines: Iterable[Mapping[str, Any]], host: str) -> dict[str, Any]:
    """What an operator finds of a host, by filters on fields alone."""
    failures = [
        line
        for line in lines
        if line["host.name"] == host
        and line.get("event.name") == ATTEMPT
        and line["event.outcome"] == "failure"
    ]
    first, *_ = sorted(failures, key=lambda line: line["event.sequence"])
    *_, last = sorted(failures, key=lambda line: line["event.sequence"])
    return {
        "daemon": (last["service.instance.id"], last["process.pid"]),
        "class": last["error.type"],
        "phase": last["castray.phase.failed"],
        "retry": last["error.retry"],
        "hint": last["error.hint"],
        "attempts": last["castray.attempt.number"],
        "attempt": last["castray.attempt.id"],
        "since": first["timestamp"],
        "next": last["castray.backoff.next_at"],
    }


def _waits(status: Mapping[str, Any]) -> bool:
    """Whether it has tried more than once, and leaves us the time to compare."""
    tried: int = status["attempt"]["number"]
    return tried > 1 and status["state"] == "disconnected" and status["next_retry_in_s"] > QUIET_S


async def _compared(daemon: Daemon, host: str) -> dict[str, Any]:
    """Have it try twice; returns what the log says, when status says the same."""
    first = await daemon.wait_status("a failure", lambda s: s["error"] and s["attempt"], 30)
    if first["error"]["retry"] == "operator":  # else a minute would have to pass
        await daemon.post("/api/reconnect")
    status = await daemon.wait_status("attempts", _waits, 60)
    attempt, error = status["attempt"], status["error"]
    await daemon.wait_log("the last", lambda line: line.get("castray.attempt.id") == attempt["id"])
    found = _found(daemon.logs(), host)
    assert found == {
        "daemon": (status["daemon"]["id"], status["daemon"]["pid"]),
        "class": error["type"],
        "phase": error["phase"],
        "retry": error["retry"],
        "hint": error["hint"],
        "attempts": attempt["number"],
        "attempt": attempt["id"],
        "since": found["since"],
        "next": found["next"],
    }
    *_, earliest = (await daemon.get("/api/attempts"))["attempts"]
    assert _apart_s(found["next"], status["next_retry_at"]) < CLOSE_S
    assert _apart_s(found["since"], earliest["started_at"]) < earliest["duration_s"] + CLOSE_S
    return found


def _apart_s(one: str, other: str) -> float:
    times = [datetime.fromisoformat(text) for text in (one, other)]
    return abs((times[0] - times[1]).total_seconds())


async def test_twenty_faults_in_one_log_are_told_apart_by_fields(tmp_path: Path) -> None:
    """For each host: daemon, class, phase, since when, attempts and next retry, as status says."""
    faults, log = _faults(tmp_path), tmp_path / "log"
    daemons: dict[str, Daemon] = {}
    async with AsyncExitStack() as stack:
        for number, fault in enumerate(faults):
            daemons[f"host{number}"] = await _start(fault, f"host{number}", log, stack)
            if number % AT_ONCE == AT_ONCE - 1:
                for daemon in list(daemons.values())[-AT_ONCE:]:
                    await daemon.answers(30)
        found = {host: await _compared(daemon, host) for host, daemon in daemons.items()}
        for daemon in daemons.values():
            daemon.signal(signal.SIGTERM)
        assert {await daemon.exit_code() for daemon in daemons.values()} == {0}

    told = [(one["class"], one["phase"]) for one in found.values()]
    assert told == [(fault.kind, fault.phase) for fault in faults]
    assert len({one["daemon"] for one in found.values()}) == 20
