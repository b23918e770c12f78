"""The units themselves: what systemd says of them, and how they come and go."""

import pytest

from tests.support.administrator import (
    CASTRAYD,
    UNITS,
    ctl,
    install_units,
    show,
    start_head,
    wait_state,
)
from tests.support.machine import BOOT, Machine, machine
from tests.support.processes import until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(240)]

ALL = ("castrayd.service", "castrayd@a.service", "castrayd-wait-online.service",
       "castrayd-online.target")  # fmt: skip
EXPOSURE, ROOTS_EXPOSURE = 18, 24
"""Tenths of systemd's measure, from 0 for the best to 100; as README and issue 6 have it."""


@pytest.mark.parametrize("own", ["tmp", "run"])
def test_machine_does_not_boot_where_it_would_empty_this_ones_folders(own: str) -> None:
    kept = [line for line in BOOT.splitlines() if not line.endswith(f'tmpfs "$R/{own}"')]
    assert len(kept) == len(BOOT.splitlines()) - 1
    with pytest.raises(AssertionError) as failed, machine("\n".join(kept)):
        pass
    assert "has ended before systemd began" in str(failed.value)


def test_they_are_shown_installed_kept_and_removed(host: Machine) -> None:
    shown = install_units(host, "--run-as", "ray", "--dry-run")
    assert f"would write  {UNITS}/castrayd.service" in shown
    assert host.run("test", "-e", f"{UNITS}/castrayd.service").returncode == 1

    first = install_units(host, "--run-as", "ray")
    assert "next: systemctl enable --now castrayd (as user ray)" in first
    assert "User=ray\n" in host.do("cat", f"{UNITS}/castrayd.service")
    host.sh("echo '# mine' >> /etc/castrayd/castrayd.toml")
    again = host.do("castrayd", "install-units", "--run-as", "ray")  # on the PATH by now
    assert "wrote" not in again
    assert "kept         /etc/castrayd/castrayd.toml" in again

    host.write("/etc/castrayd/a.toml", "")
    host.do("systemctl", "enable", "--now", "castrayd", "castrayd@a")
    assert host.do("readlink", "/usr/local/bin/castrayctl") == "/opt/castrayd/bin/castrayctl\n"
    assert ctl(host, "--instance", "a", "status")["state"] == "disconnected"
    gone = install_units(host, "--run-as", "ray", "--remove")
    assert "remains      /var/lib/castrayd-a" in gone
    assert "castrayctl node purge --mine" in gone
    assert f"removed      {UNITS}/castrayd@.service" in gone
    assert host.do("cat", "/etc/castrayd/castrayd.toml").endswith("# mine\n")
    assert show(host)["LoadState"] == "not-found"
    left = host.do("ps", "ax", "-ww", "-o", "args")
    assert "castrayd run" not in left
    folders = ("/etc/systemd", "/usr/local", "/run/systemd")
    assert host.do("find", *folders, "-name", "castray*") == ""
    install_units(host, "--run-as", "ray", "--remove")  # again is no fault


def test_what_an_administrator_put_there_stays(host: Machine) -> None:
    """A unit of their own, a mask, a command."""
    install_units(host, "--run-as", "ray")
    host.do("systemctl", "mask", "castrayd@.service")
    host.sh(f"sed s/WatchdogSec=30/WatchdogSec=31/ {UNITS}/castrayd.service "
            "> /etc/systemd/system/castrayd.service")  # fmt: skip
    host.sh("rm /usr/local/bin/castrayctl; echo '#!/bin/true' > /usr/local/bin/castrayctl")
    again = install_units(host, "--run-as", "ray")
    assert "kept         /usr/local/bin/castrayctl (not ours)" in again
    assert show(host)["FragmentPath"] == "/etc/systemd/system/castrayd.service"
    assert show(host, "castrayd@a")["LoadState"] == "masked"
    install_units(host, "--remove")
    assert host.do("cat", "/usr/local/bin/castrayctl") == "#!/bin/true\n"
    assert show(host, "castrayd@a")["LoadState"] == "masked"
    host.sh("rm /usr/local/bin/castrayctl /etc/systemd/system/castrayd*; systemctl daemon-reload")


def test_an_upgrade_keeps_the_user_and_modes_are_everybodys_to_read(host: Machine) -> None:
    host.sh("umask 077; /opt/castrayd/bin/castrayd install-units --run-as ray")
    assert host.do("stat", "-c", "%a", "/etc/castrayd") == "755\n"
    assert host.do("stat", "-c", "%a", "/etc/castrayd/castrayd.toml") == "644\n"
    again = install_units(host)  # with no raylet there
    assert "wrote" not in again
    assert "(as user ray)" in again
    install_units(host, "--remove")


def test_a_stranger_that_calls_itself_a_raylet_is_not_asked(host: Machine) -> None:
    words = "--raylet_socket_name=/tmp/none --gcs-address=127.0.0.1:1 --cluster-id=00 --node_id=00"
    host.sh(f"cp /bin/sleep /tmp/raylet; setpriv --reuid=stranger --clear-groups sh -c "
            f"'exec /tmp/raylet 300 {words}' >/dev/null 2>&1 & sleep 0.3")  # fmt: skip
    assert "(as user castrayd)" in install_units(host)
    install_units(host, "--remove")


_LISTENS = """
stranger="setpriv --reuid=stranger --regid=stranger --clear-groups"
$stranger cp $(readlink -f /usr/bin/python3) /home/stranger/raylet
cat > /tmp/listen.py <<'.'
import socket, sys, time
one = socket.socket(socket.AF_UNIX)
one.bind("/tmp/listens")
one.listen()
time.sleep(300)
.
$stranger {} /tmp/listen.py \
  --raylet_socket_name=/tmp/listens --gcs-address=127.0.0.1:1 --node_id=00 >/dev/null 2>&1 &
echo $! > /tmp/listens.pid
"""
_NAMED_SO = """unshare --map-root-user --mount sh -c '
  mount --bind $(readlink -f /usr/bin/python3) /home/stranger/raylet
  exec /home/stranger/raylet "$@"' -"""


@pytest.mark.parametrize("command", ["/home/stranger/raylet", _NAMED_SO])
def test_a_stranger_that_listens_as_a_raylet_must_be_confirmed(host: Machine, command: str) -> None:
    """Also with root's own program, under another name in a namespace of the stranger's."""
    host.sh(_LISTENS.format(command))
    try:
        until(lambda: host.run("test", "-S", "/tmp/listens").returncode == 0, 10, "its socket")
        refused = host.run(CASTRAYD, "install-units")
        assert refused.returncode == 78, refused
        assert "--run-as" in refused.stderr
        assert "raylet (pid" in refused.stderr
        assert "of stranger" in refused.stderr
        assert host.run("test", "-e", f"{UNITS}/castrayd.service").returncode == 1
    finally:
        host.sh("kill $(cat /tmp/listens.pid); rm -f /tmp/listens /home/stranger/raylet")


def test_a_user_that_could_not_start_it_is_refused(host: Machine) -> None:
    host.do("chmod", "700", "/opt/castrayd")
    try:
        refused = host.run(CASTRAYD, "install-units", "--run-as", "ray")
        assert refused.returncode == 1
        assert "/opt/castrayd/bin/castrayd is not executable by ray: install it" in refused.stderr
        assert show(host)["LoadState"] == "not-found"
    finally:
        host.do("chmod", "755", "/opt/castrayd")


def test_without_a_raylet_they_are_for_a_user_of_their_own(host: Machine) -> None:
    assert "no raylet: for user castrayd" in install_units(host)
    host.do("systemctl", "start", "castrayd")
    assert host.run("castrayd", "run").returncode == 73
    assert host.do("stat", "-c", "%U %a", "/var/lib/castrayd") == "castrayd 700\n"
    assert ctl(host, "status")["error"]["type"] == "no_cluster_found"
    install_units(host, "--remove")


@pytest.mark.ray
@pytest.mark.parametrize("user", ["ray", "root"])
def test_with_a_raylet_they_are_for_its_user(host: Machine, user: str) -> None:
    start_head(host, user=user)
    said = install_units(host)
    assert f"(as user {user})" in said
    host.do("systemctl", "start", "castrayd")  # and it finds that cluster by itself
    status = wait_state(host, "connected")
    assert status["address"]["source"].startswith("discovery:")
    install_units(host, "--remove")
    host.sh("systemctl stop head; rm -rf /tmp/ray /var/lib/castrayd")


def test_faulty_arguments_change_nothing(host: Machine) -> None:
    for words in (("--run-as", "nobody-at-all"), ("--user", "--run-as", "ray")):
        assert host.run(CASTRAYD, "install-units", *words).returncode == 78
    refused = host.run(CASTRAYD, "install-units", user="ray")
    assert refused.returncode == 78
    assert "--user" in refused.stderr
    assert show(host)["LoadState"] == "not-found"


def test_systemd_finds_no_fault_and_little_exposure(host: Machine) -> None:
    install_units(host, "--run-as", "ray")
    for unit in ALL:
        done = host.run("systemd-analyze", "verify", unit)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for unit in ALL[:2]:
        host.do("systemd-analyze", "security", f"--threshold={EXPOSURE}", unit)
        assert show(host, unit)["OOMPolicy"] == "continue"
    install_units(host, "--run-as", "root")
    for unit in ALL[:2]:
        host.do("systemd-analyze", "security", f"--threshold={ROOTS_EXPOSURE}", unit)
    assert "CapabilityBoundingSet=\n" in host.do("systemctl", "cat", ALL[2])
    install_units(host, "--remove")


def test_manual_pages_are_read_without_a_complaint(host: Machine) -> None:
    install_units(host, "--run-as", "ray")
    for page, words in (("castrayd.8", "install-units"), ("castrayctl.1", "transfer retry")):
        path = f"/usr/local/share/man/man{page[-1]}/{page}"
        done = host.run("man", "--warnings=w", "-E", "ascii", "-l", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout
    install_units(host, "--run-as", "ray", "--remove")


def test_for_a_user_of_no_rights(host: Machine) -> None:
    """Their own systemd, their own folders; no root in it."""
    uid = host.do("id", "-u", "stranger").strip()
    host.do("systemctl", "start", f"user@{uid}.service")
    until(lambda: show(host, f"user@{uid}.service")["ActiveState"] == "active", 20, "it")

    def theirs(*command: str) -> str:
        place = f"/run/user/{uid}"
        bus = f"DBUS_SESSION_BUS_ADDRESS=unix:path={place}/bus"
        return host.do("env", f"XDG_RUNTIME_DIR={place}", bus, *command, user="stranger")

    assert "next: systemctl --user enable --now castrayd" in theirs(
        CASTRAYD, "install-units", "--user"
    )
    theirs("systemctl", "--user", "start", "castrayd")
    status = (f"{CASTRAYD[:-1]}ctl", "--json", "status")
    until(lambda: '"no_cluster_found"' in theirs(*status), 10, "its first attempt")
    theirs("systemctl", "--user", "reload", "castrayd")
    theirs(CASTRAYD, "install-units", "--user", "--remove")
    assert "inactive" in host.run(
        "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user", "is-active", "castrayd",
        user="stranger",
    ).stdout  # fmt: skip
    host.do("systemctl", "stop", f"user@{uid}.service")
