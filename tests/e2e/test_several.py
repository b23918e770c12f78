"""More than one: instances on two clusters, users with more and less rights, versions."""

import json
import tempfile
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import build_wheel, install
from tests.support.administrator import (
    actors,
    ctl,
    drop_in,
    install_units,
    journal,
    moment,
    show,
    slow_transfer,
    start,
    start_head,
    wait_done,
    wait_state,
)
from tests.support.machine import Machine
from tests.support.processes import until

pytestmark = [pytest.mark.systemd, pytest.mark.ray, pytest.mark.timeout(240)]

SECOND = 6479
_APART = "--temp-dir=/tmp/ray-b --ray-client-server-port=25001 --dashboard-port=8366 {}".format(
    "--dashboard-agent-listen-port=52466 --dashboard-agent-grpc-port=52467"
)


@pytest.fixture(autouse=True)
def _from_now_on(service: Machine) -> None:
    service.since = moment(service)


def test_two_instances_on_two_clusters_are_apart_in_everything(service: Machine) -> None:
    start_head(service)
    start_head(service, "second", port=SECOND, more=_APART)
    for name, port in (("a", 6379), ("b", SECOND)):
        settings = f'[ray]\naddress = "127.0.0.1:{port}"\ndiscovery = []\n'
        service.write(f"/etc/castrayd/{name}.toml", settings)
    service.do("systemctl", "start", "castrayd@a", "castrayd@b")
    a, b = (wait_state(service, "connected", "--instance", name) for name in "ab")
    assert a["cluster"]["id"] != b["cluster"]["id"]
    assert a["daemon"]["id"] != b["daemon"]["id"]
    ctl(service, "--instance", "a", "node", "create", "only-a")
    assert ctl(service, "--instance", "b", "node", "list")["nodes"] == []
    for name in "ab":
        assert service.do("stat", "-c", "%U", f"/var/lib/castrayd-{name}/ledger.sqlite") == "ray\n"
        units = {line["_SYSTEMD_UNIT"] for line in journal(service, unit=f"castrayd@{name}")
                 if "_SYSTEMD_UNIT" in line and line["_COMM"] == "castrayd"}  # fmt: skip
        assert units == {f"castrayd@{name}.service"}
    service.do("systemctl", "stop", "castrayd@a")
    assert ctl(service, "--instance", "b", "status")["state"] == "connected"
    assert service.run("castrayctl", "--instance", "a", "status").returncode == 3
    service.do("systemctl", "stop", "castrayd@b", "second")


def test_who_may_read_write_or_nothing(service: Machine) -> None:
    good = service.do("cat", "/etc/castrayd/castrayd.toml")
    config = '[control]\nread_groups = ["reader"]\nwrite_groups = ["writer"]\n'
    service.write("/etc/castrayd/castrayd.toml", config)
    start(service)
    assert ctl(service, "status", user="reader")["state"] == "connected"
    for user, words, code in (
        ("reader", ("pause",), 5),
        ("reader", ("message", "send", "--to", "all", "x"), 5),
        ("stranger", ("status",), 5),
        ("stranger", ("pause",), 5),
        ("writer", ("pause",), 0),
        ("writer", ("resume",), 0),
        ("ray", ("pause",), 0),
        ("ray", ("resume",), 0),
        (None, ("pause",), 0),
        (None, ("resume",), 0),
    ):
        done = service.run("castrayctl", *words, user=user)
        assert done.returncode == code, (user, words, done)
        if code:
            assert "may not" in done.stderr
    service.write("/etc/castrayd/castrayd.toml", config + "own_uid_writes = false\n")
    service.do("systemctl", "restart", "castrayd")
    assert service.run("castrayctl", "pause", user="ray").returncode == 5
    service.do("systemctl", "reload", "castrayd")  # which asks as that very user
    service.write("/etc/castrayd/castrayd.toml", good)
    service.do("systemctl", "stop", "castrayd")


def test_an_upgrade_in_the_middle_of_a_transfer_loses_nothing(service: Machine) -> None:
    start(service)
    number = slow_transfer(service, "upgraded")
    before, seen = actors(service), ctl(service, "status")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        install(service, build_wheel(Path(folder), "9.9.9"))
    said = install_units(service, "--run-as", "ray")
    assert "wrote" not in said.replace("wrote        /usr/local/share/man", "")  # by version
    assert "next: systemctl restart castrayd.service (as user ray)" in said
    service.do("systemctl", "try-restart", "castrayd", "castrayd@*")
    status = wait_state(service, "connected")
    assert status["daemon"]["version"] == "9.9.9"
    assert status["daemon"]["id"] == seen["daemon"]["id"]
    wait_done(service, number)
    assert actors(service) == before
    service.do("systemctl", "stop", "castrayd")


def test_a_token_as_a_credential_is_kept_from_other_users(service: Machine) -> None:
    service.do("systemctl", "stop", "head")
    token = "a-token-of-the-cluster-that-nobody-may-see"
    start_head(service, environ=f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={token}")
    service.do("systemctl", "start", "castrayd")
    until(lambda: "auth_missing" in show(service)["StatusText"], 30, "a refusal")
    service.write("/etc/castrayd/ray-token", token)
    service.sh("chmod 600 /etc/castrayd/ray-token; systemctl stop castrayd")
    example = Path("systemd/examples/token.conf").read_text()
    drop_in(service, example.partition("[Service]\n")[2])
    service.do("systemctl", "start", "castrayd")
    wait_state(service, "connected")
    pid = show(service)["MainPID"]
    assert token not in service.do("cat", f"/proc/{pid}/environ")
    assert token not in json.dumps(journal(service))
    copy = "/run/credentials/castrayd.service/ray-token"
    for path in (copy, "/etc/castrayd/ray-token"):
        refused = service.run("cat", path, user="stranger")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Permission denied" in refused.stderr
    assert service.do("cat", copy, user="ray") == token  # and so any Ray job
    service.do("systemctl", "stop", "castrayd", "head")
    service.sh("rm -rf /etc/systemd/system/castrayd.service.d; systemctl daemon-reload")


def test_another_temp_dir_of_ray(service: Machine) -> None:
    service.sh("mkdir -p /data/ray; chown ray /data/ray; rm -rf /tmp/ray /tmp/ray-b")
    start_head(service, more="--temp-dir=/data/ray")
    example = Path("systemd/examples/ray-temp-dir.conf").read_text()
    drop_in(service, example.partition("[Service]\n")[2])
    service.do("systemctl", "start", "castrayd")
    wait_state(service, "connected")
    service.do("systemctl", "stop", "castrayd", "head")


def test_a_cluster_started_by_the_service_itself(service: Machine) -> None:
    """With the drop-in for it, as the raylet's user; killed with it, and its folder swept later."""
    service.sh(
        "rm -rf /tmp/ray /etc/systemd/system/castrayd.service.d; rm /etc/castrayd/environment"
    )
    example = Path("systemd/examples/local-start.conf").read_text().partition("[Service]\n")[2]
    more = "Environment=CASTRAYD_RAY__ALLOW_LOCAL_START=true CASTRAYD_RAY__DISCOVERY=[]"
    drop_in(service, f"{example}\n{more}")
    service.do("systemctl", "start", "castrayd")
    assert wait_state(service, "connected")["address"]["source"] == "local"
    first = service.sh("ls -d /tmp/ray/session_2*").strip()
    service.sh(f"kill -KILL {show(service)['MainPID']}")
    until(lambda: show(service)["NRestarts"] == "1", 20, "a restart")
    assert wait_state(service, "connected")["address"]["source"] == "local"
    until(lambda: service.run("test", "-e", first).returncode, 10, "the first one's folder to go")
    # an end that takes longer than systemd would wait is granted the time that it asks for
    drop_in(service, f"{example}\n{more}\nTimeoutStopSec=1")
    service.sh("kill -STOP $(pgrep -x gcs_server)")
    began = time.monotonic()
    service.do("systemctl", "stop", "castrayd")
    assert time.monotonic() - began > 1.5
    assert show(service)["Result"] == "success"
    assert service.run("sh", "-c", "ls -d /tmp/ray/session_2*").returncode != 0
