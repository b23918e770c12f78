"""castrayd under a real systemd, as an administrator meets it: from the first start to the end."""

import time
from collections.abc import Iterator

import pytest

from tests.support.administrator import (
    HEAD,
    actors,
    casts,
    ctl,
    drop_in,
    journal,
    moment,
    show,
    slow_transfer,
    start,
    start_head,
    wait_done,
    wait_state,
    wait_unit,
    with_head,
)
from tests.support.machine import Machine
from tests.support.processes import until

pytestmark = [pytest.mark.systemd, pytest.mark.ray, pytest.mark.timeout(240)]

STOP_S = 10.0
"""`daemon.stop_s`, as it is by default."""


@pytest.fixture(autouse=True)
def _as_shipped(service: Machine) -> Iterator[None]:
    service.since = moment(service)  # what another test has caused is no answer
    yield
    service.do("rm", "-rf", "/etc/systemd/system/castrayd.service.d")
    service.sh("systemctl stop castrayd; systemctl reset-failed; systemctl daemon-reload")


def freeze_gcs(host: Machine, *, thaw: bool = False) -> None:
    """SIGSTOP the GCS, or SIGCONT it."""
    host.sh(f"kill -{'CONT' if thaw else 'STOP'} $(pgrep -x gcs_server)")


def stop(host: Machine) -> None:
    """Stop the service as it must stop: within its deadline, by itself, with nothing left."""
    began, since = time.monotonic(), moment(host)
    host.do("systemctl", "stop", "castrayd")
    assert time.monotonic() - began < STOP_S + 5
    known = show(host)
    assert known["Result"] == "success", known
    assert known["ExecMainStatus"] == "0", known
    assert known["ActiveState"] == "inactive", known
    left = host.do("ps", "ax", "-ww", "-o", "args")
    assert "/opt/castrayd" not in left, left
    said = [str(line["MESSAGE"]) for line in journal(host, since=since)]
    assert any("Stopped" in line for line in said), said
    assert not any("Killing process" in line or "remains running" in line for line in said), said


def test_starts_without_ray_and_attaches_when_it_comes(service: Machine) -> None:
    service.sh("rm -rf /tmp/ray")
    service.do("systemctl", "start", "castrayd", timeout_s=10)
    assert ctl(service, "status")["error"]["type"] in {"tcp_refused", None}
    wait_unit(service, "its status", lambda known: "tcp_refused" in known["StatusText"])
    assert "next attempt at" in show(service)["StatusText"]
    start_head(service)
    wait_state(service, "connected")
    wait_unit(service, "its status", lambda known: f"connected to {HEAD}" in known["StatusText"])
    casts(service)
    service.sh("systemctl stop head; rm -rf /tmp/ray")
    wait_state(service, "disconnected")
    start_head(service)
    wait_state(service, "connected")
    casts(service)
    stop(service)


def test_a_fault_is_found_in_the_journal_by_its_field(service: Machine) -> None:
    service.sh("systemctl stop head; systemctl start castrayd")
    wait_unit(service, "a failure", lambda known: "tcp_refused" in known["StatusText"])
    found = journal(service, "CASTRAY_ERROR_TYPE=tcp_refused")
    assert found
    assert {line["CASTRAY_ERROR_RETRY"] for line in found} == {"transient"}
    assert {line["_SYSTEMD_UNIT"] for line in found} == {"castrayd.service"}
    assert all(line["CASTRAY_SERVER_PORT"] == "6379" for line in found)


@pytest.mark.parametrize("state", ["disconnected", "discovering", "connected", "degraded"])
def test_stops_in_every_state(service: Machine, state: str) -> None:
    if state in {"connected", "degraded"}:
        start(service)
    else:
        service.sh("systemctl stop head; systemctl start castrayd")
        wait_state(service, "disconnected")
    if state == "degraded":
        freeze_gcs(service)
    if state == "discovering":
        with_head(service)
        wait_state(service, "connected")
        freeze_gcs(service)
        service.do("castrayctl", "reconnect")
    try:
        wait_state(service, state)
        stop(service)
    finally:
        if state in {"degraded", "discovering"}:
            freeze_gcs(service, thaw=True)


def test_stops_in_the_middle_of_a_transfer_which_goes_on_by_itself(service: Machine) -> None:
    start(service)
    number = slow_transfer(service, "stopped")
    stop(service)
    start(service)
    wait_done(service, number)


def test_another_user_than_the_raylets_is_told_what_to_do(service: Machine) -> None:
    with_head(service)
    drop_in(service, "User=stranger")
    service.do("systemctl", "start", "castrayd")
    known = wait_unit(service, "forbidden", lambda k: "local_node_forbidden" in k["StatusText"])
    assert "install-units --run-as" in known["StatusText"]
    found = journal(service, "CASTRAY_ERROR_TYPE=local_node_forbidden")
    assert "install-units --run-as" in found[0]["CASTRAY_ERROR_HINT"]


def test_a_daemon_that_is_killed_comes_back_with_its_nodes_and_transfers(service: Machine) -> None:
    start(service)
    number = slow_transfer(service, "killed")
    before = actors(service)
    service.sh(f"kill -KILL {show(service)['MainPID']}")
    wait_unit(service, "a restart", lambda known: known["NRestarts"] == "1")
    wait_state(service, "connected")
    wait_done(service, number)
    assert actors(service) == before  # the very processes


def test_a_frozen_daemon_is_ended_by_the_watchdog(service: Machine) -> None:
    drop_in(service, "WatchdogSec=2")
    start(service)
    service.sh(f"kill -STOP {show(service)['MainPID']}")
    wait_unit(service, "a restart", lambda known: known["NRestarts"] == "1")
    assert any("Watchdog timeout" in line["MESSAGE"] for line in journal(service))
    wait_state(service, "connected")
    assert show(service)["Result"] == "success"


def test_an_event_loop_that_hangs_is_ended_by_the_watchdog(service: Machine) -> None:
    """A proof that the pings come from what must move: all but the loop goes on."""
    service.write("/opt/block/sitecustomize.py", _BLOCK)
    drop_in(service, "WatchdogSec=2\nEnvironment=PYTHONPATH=/opt/block")
    service.sh("rm -f /tmp/blocked")
    start(service)
    service.do("touch", "/tmp/block", user="ray")
    wait_unit(service, "a restart", lambda known: known["NRestarts"] == "1")
    assert service.run("test", "-e", "/tmp/blocked").returncode == 0
    said = [line["MESSAGE"] for line in journal(service) if isinstance(line["MESSAGE"], str)]
    assert any("sitecustomize.py" in line for line in said), "the stack shows where it hung"
    wait_state(service, "connected")


_BLOCK = """
import os, sys, time
if sys.argv and "castrayd" in (sys.orig_argv[1] if len(sys.orig_argv) > 1 else ""):
    import asyncio
    once = asyncio.BaseEventLoop._run_once
    def blocked(self):
        if os.path.exists("/tmp/block"):
            os.rename("/tmp/block", "/tmp/blocked")
            time.sleep(600)
        once(self)
    asyncio.BaseEventLoop._run_once = blocked
"""


def _fails_for_good(host: Machine, code: str) -> None:
    """Start the service: it ends with that code, and is not started again."""
    assert host.run("systemctl", "start", "castrayd").returncode != 0
    time.sleep(6)  # longer than RestartSec
    known = show(host)
    assert (known["ActiveState"], known["ExecMainStatus"]) == ("failed", code), known
    assert known["NRestarts"] == "0"


def test_faulty_settings_are_not_tried_again(service: Machine) -> None:
    good = service.do("cat", "/etc/castrayd/castrayd.toml")
    service.write("/etc/castrayd/castrayd.toml", "[ray]\naddres = 'x'\n[log]\nlevel = 'loud'\n")
    try:
        _fails_for_good(service, "78")
        shown = service.run("systemctl", "status", "castrayd").stdout
        assert "ray.addres: no such setting; did you mean 'address'?" in shown
        assert "log.level" in shown
    finally:
        service.write("/etc/castrayd/castrayd.toml", good)


def test_beside_a_daemon_run_by_hand_it_is_not_tried_again(service: Machine) -> None:
    """And takes nothing from that one, which root has started: folder and socket stay."""
    service.do("systemd-run", "--unit=by-hand", "castrayd", "run")
    until(lambda: service.run("castrayctl", "status").returncode == 0, 20, "the one by hand")
    pid = ctl(service, "status")["daemon"]["pid"]
    try:
        _fails_for_good(service, "73")
        assert ctl(service, "status")["daemon"]["pid"] == pid
    finally:
        service.do("systemctl", "stop", "by-hand")
    done = service.run("castrayctl", "status")
    assert done.returncode == 3
    assert "Start it: systemctl start castrayd\n" in done.stderr
    service.do("systemctl", "start", "castrayd")  # nothing of root's is in its way


def test_root_by_hand_before_the_first_start_is_not_in_its_way(service: Machine) -> None:
    """What it makes in the service's folders is the service's."""
    good = service.do("cat", "/etc/castrayd/castrayd.toml")
    service.sh("rm -rf /run/castrayd /var/lib/castrayd")
    service.write("/etc/castrayd/castrayd.toml", "[ray]\naddres = 'x'\n")
    assert service.run("systemctl", "start", "castrayd").returncode != 0  # but has its folders
    service.write("/etc/castrayd/castrayd.toml", good)
    service.do("systemd-run", "--unit=by-hand", "castrayd", "run")
    until(lambda: service.run("castrayctl", "status").returncode == 0, 20, "the one by hand")
    service.do("systemctl", "stop", "by-hand")
    service.do("systemctl", "start", "castrayd")


def test_reload_with_a_good_and_with_a_bad_file(service: Machine) -> None:
    good = service.do("cat", "/etc/castrayd/castrayd.toml")
    start(service)
    pid = show(service)["MainPID"]
    session = ctl(service, "status")["session"]["pid"]
    try:
        service.write("/etc/castrayd/castrayd.toml", good + "\n[log]\nlevel = 'debug'\n")
        service.do("systemctl", "reload", "castrayd")
        assert ctl(service, "log-level")["level"] == "debug"
        service.write("/etc/castrayd/castrayd.toml", "[ray]\naddress = 7\n")
        refused = service.run("systemctl", "reload", "castrayd")
        assert refused.returncode != 0
        assert any("ray.address" in str(line["MESSAGE"]) for line in journal(service))
        known = show(service)
        assert (known["ActiveState"], known["SubState"], known["MainPID"]) == (
            "active", "running", pid,
        )  # fmt: skip
        assert ctl(service, "log-level")["level"] == "debug"
        assert ctl(service, "status")["session"]["pid"] == session
    finally:
        service.write("/etc/castrayd/castrayd.toml", good)


def test_what_waits_for_the_attachment_starts_after_it(service: Machine) -> None:
    """Though the first start fails, and it is stopped meanwhile."""
    online, waiting = "castrayd-online.target", "castrayd-wait-online.service"
    once = "test -e /tmp/once || { touch /tmp/once; exit 1; }"
    drop_in(service, f"RestartSec=1\nExecStartPre=/bin/sh -c '{once}'")
    service.sh(f"rm -f /tmp/once; systemctl stop head; systemctl start --no-block {online}")
    until(lambda: show(service)["ActiveState"] == "active", 10, "the service")
    assert show(service)["NRestarts"] == "1"
    assert show(service, online)["ActiveState"] == "inactive"
    service.do("systemctl", "stop", "castrayd")
    assert show(service, waiting)["ActiveState"] == "inactive"  # and not failed
    service.sh(f"rm /tmp/once; systemctl start --no-block {online}")
    with_head(service)
    until(lambda: show(service, online)["ActiveState"] == "active", 60, "online")
    assert ctl(service, "status")["state"] == "connected"
    service.do("systemctl", "stop", online, waiting)
