"""What an administrator does on a machine: units, clusters, castrayctl as one user or another."""

import json
import re
import sys
import time
from typing import Any

from tests.support.machine import Machine
from tests.support.processes import until

__all__ = (
    "CASTRAYD", "HEAD", "UNITS", "actors", "casts", "ctl", "drop_in", "install_units", "journal",
    "moment", "show", "slow_transfer", "start", "start_head", "told", "wait_done", "wait_state",
    "wait_unit", "with_head",
)  # fmt: skip

HEAD = "127.0.0.1:6379"
CASTRAYD = "/opt/castrayd/bin/castrayd"
"""Where it lies: on nobody's PATH before its units are installed."""
UNITS = "/usr/local/lib/systemd/system"

_HEAD = """
[Unit]
Description=a Ray head
[Service]
User={user}
Environment=RAY_USAGE_STATS_ENABLED=0 {environ}
ExecStart={python} -c "from ray.scripts.scripts import main; main()" start --head --block \\
    --port={port} --node-ip-address=127.0.0.1 --num-cpus=1 --object-store-memory=80000000 \\
    --include-dashboard=false --disable-usage-stats {more}
TimeoutStopSec=5
"""


def start_head(
    host: Machine, name: str = "head", *, port: int = 6379, user: str = "ray",
    environ: str = "RAY_AUTH_MODE=disabled", more: str = "",
) -> None:  # fmt: skip
    """Start a Ray head as a unit; returns when it has a raylet."""
    unit = _HEAD.format(user=user, environ=environ, python=sys.executable, port=port, more=more)
    host.write(f"/etc/systemd/system/{name}.service", unit)
    host.sh(f"systemctl daemon-reload; systemctl start {name}")
    until(lambda: _has_raylet(host, port), 40, f"a raylet of {name}")


def _has_raylet(host: Machine, port: int) -> bool:
    lines = host.do("ps", "ax", "-ww", "-o", "args").splitlines()
    ours = (line for line in lines if "/raylet/raylet " in line and f"127.0.0.1:{port} " in line)
    sockets = [found[1] for line in ours if (found := re.search(r"raylet_socket_name=(\S+)", line))]
    return any(host.run("test", "-S", path).returncode == 0 for path in sockets)


def ctl(host: Machine, *words: str, user: str | None = None) -> Any:
    """Ask the daemon; returns the document."""
    return json.loads(host.do("castrayctl", "--json", *words, user=user) or "null")


def wait_state(host: Machine, state: str, *options: str, timeout_s: float = 60) -> Any:
    """Wait for a state; returns status."""
    waiting = ("wait", "--for", state, "--timeout", str(timeout_s))
    done = host.run("castrayctl", "--json", *options, *waiting, timeout_s=timeout_s + 10)
    assert done.returncode == 0, (done.stderr, told(host))
    return json.loads(done.stdout)


def show(host: Machine, unit: str = "castrayd") -> dict[str, str]:
    """What systemd knows of a unit."""
    said = host.do("systemctl", "show", unit)
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def wait_unit(host: Machine, what: str, condition: Any, timeout_s: float = 30) -> dict[str, str]:
    """Wait until what systemd knows of castrayd satisfies a condition; returns it."""
    deadline = time.monotonic() + timeout_s
    while not condition(known := show(host)):
        assert time.monotonic() < deadline, (what, known["StatusText"], told(host))
        time.sleep(0.1)
    return known


def told(host: Machine, unit: str = "castrayd") -> str:
    """What a unit has logged, for a person."""
    return host.do("journalctl", "--no-pager", "-n", "40", "-u", unit)


def drop_in(host: Machine, text: str, unit: str = "castrayd") -> None:
    """Replace the one drop-in of the tests."""
    host.write(f"/etc/systemd/system/{unit}.service.d/test.conf", f"[Service]\n{text}\n")
    host.do("systemctl", "daemon-reload")


def journal(
    host: Machine, *fields: str, unit: str = "castrayd", since: str = ""
) -> list[dict[str, Any]]:
    """What a unit has logged since a moment, or the machine's own, by field."""
    since = since or host.since
    begin = [f"--since={since}"] if since else []
    command = ["journalctl", "--no-pager", "-o", "json", "-u", unit, *begin, *fields]
    return [json.loads(line) for line in host.do(*command).splitlines()]


def moment(host: Machine) -> str:
    """Now, as the journal has it: right after its last line.

    A cursor would not do: after one that a search does not match, it passes over a line.
    """
    host.do("journalctl", "--sync")
    last = json.loads(host.do("journalctl", "-n", "1", "-o", "json"))
    seconds, rest = divmod(int(last["__REALTIME_TIMESTAMP"]) + 1, 10**6)
    return f"@{seconds}.{rest:06}"


def install_units(host: Machine, *words: str) -> str:
    """What installing the units says."""
    return host.do(CASTRAYD, "install-units", *words)


def with_head(host: Machine) -> None:
    """Have a head there that runs."""
    if show(host, "head")["ActiveState"] != "active":
        start_head(host)


def start(host: Machine) -> None:
    """Start the service, attached."""
    with_head(host)
    host.do("systemctl", "start", "castrayd")
    wait_state(host, "connected")


def casts(host: Machine) -> None:
    """Show that what is sent comes."""
    names = {node["name"] for node in ctl(host, "node", "list")["nodes"]}
    for name in {"here", "there"} - names:
        ctl(host, "node", "create", name)
    until(lambda: all(n["state"] == "ready" for n in ctl(host, "node", "list")["nodes"]), 30,
          "casting nodes")  # fmt: skip
    assert (
        ctl(host, "message", "send", "--from", "here", "--to", "there", "hello")["delivered"] == 1
    )


def slow_transfer(host: Machine, name: str) -> str:
    """Begin a transfer of some ten seconds; returns its id once bytes have come."""
    casts(host)
    folder = next(n for n in ctl(host, "node", "list")["nodes"] if n["name"] == "here")["roots"]
    host.sh(f"head -c 100000000 /dev/urandom > {folder['files']}/{name}; "
            f"chown ray {folder['files']}/{name}")  # fmt: skip
    sending = ("file", "send", f"here:files:{name}", "--to", "there", "--bandwidth", "10000000")
    number = ctl(host, *sending, "--detach")["id"]
    until(lambda: ctl(host, "transfer", "show", number)["bytes_verified"] > 50_000_000, 30, "half")
    return str(number)


def actors(host: Machine) -> list[str]:
    """The pids of the processes that are casting nodes."""
    lines = host.do("ps", "ax", "-ww", "-o", "pid,args").splitlines()
    found = sorted(line.split()[0] for line in lines if "ray::Caster" in line)
    assert found
    return found


def wait_done(host: Machine, number: str) -> None:
    """Wait until a transfer is done; and done it must be."""
    ended = {"done", "failed", "partial", "cancelled"}
    until(lambda: ctl(host, "transfer", "show", number)["state"] in ended, 60, "its end")
    one = ctl(host, "transfer", "show", number)
    assert one["state"] == "done", one
    assert one["recipients"][0]["sha256"] == one["sha256"]
    assert one["recipients"][0]["bytes_sent"] <= one["bytes_total"] * 1.25, "sent again"
