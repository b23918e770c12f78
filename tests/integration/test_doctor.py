"""`castrayctl doctor` on real faults, asked of a daemon and without one."""

import json
import os
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import anyio
import pytest

from tests.support import peers
from tests.support.daemon import Daemon, running_daemon
from tests.support.fake_head import fake_head
from tests.support.ray import RayHead, ray_head

CTL = "from castrayd.cli import castrayctl; castrayctl.main()"
STRANGER = (
    "from castrayd.cli import castrayctl, doctor; import os;"
    " os.setgroups([]); os.setgid(65534); os.setuid(65534); castrayctl.main()"
)
"""Becomes somebody else when all is loaded: the checkout may be ours alone to read."""
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""Root without its power over files is a user like any other."""
RAY_VERSION = metadata.version("ray")
LIMIT_S = 5.0

Peer = Callable[[], AbstractAsyncContextManager[str]]

both = pytest.mark.parametrize("by", ["castrayd", "castrayctl"])
"""Seen by a daemon, and by castrayctl itself where there is none."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Where the doctor looks: from a daemon that runs, or from the settings that one would have."""

    daemon: Daemon
    prefix: tuple[str, ...]

    async def ctl(self, *arguments: str, script: str = CTL) -> tuple[int, str, str]:
        """Run castrayctl; returns code, output and error output."""
        socket = f"--socket={self.daemon.socket}"
        command = [*self.prefix, sys.executable, "-c", script, socket, *arguments]
        environ = {
            **self.daemon._environ,
            "CASTRAYD_CONFIG": str(self.daemon.folder / "castrayd.toml"),
        }
        with anyio.fail_after(20):
            done = await anyio.run_process(command, check=False, env=environ)
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return done.returncode, out, err

    async def report(self, *address: str) -> dict[str, Any]:
        """Have it examined; the exit code must say what the report does."""
        code, out, err = await self.ctl("--json", "doctor", *address)
        assert out, err
        report: dict[str, Any] = json.loads(out)
        assert code == (0 if report["ok"] else 1)
        assert report["duration_s"] < LIMIT_S
        return report


@asynccontextmanager
async def _patient(
    by: str,
    *,
    address: str | None = None,
    config: str = "",
    environ: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> AsyncIterator[Patient]:
    environ = {"CASTRAYD_BACKOFF__GAP_S": "50", **(environ or {})}
    async with running_daemon(
        address=address, config=config, environ=environ, launch=False
    ) as daemon:
        if by == "castrayd":
            daemon.launch(*prefix)
            await daemon.answers()
        yield Patient(daemon, () if by == "castrayd" else prefix)


def _host(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(check for check in report["host"] if check["name"] == name)
    return found


def _failed(report: dict[str, Any], kind: str, step: str, remedy: str) -> dict[str, Any]:
    """The one candidate has failed so, in that step, and the steps after it were not reached."""
    (walk,) = report["candidates"]
    outcomes = {one["name"]: one["outcome"] for one in walk["steps"]}
    place = list(outcomes).index(step)
    expected = ["ok"] * place + ["failed"] + ["not_reached"] * (len(outcomes) - place - 1)

    assert not report["ok"]
    assert not walk["ok"]
    assert walk["error"]["type"] == kind
    assert remedy in walk["error"]["hint"]
    assert list(outcomes.values()) == expected
    assert sum(one["seconds"] or 0.0 for one in walk["steps"]) < LIMIT_S
    return walk  # type: ignore[no-any-return]


@both
@pytest.mark.parametrize(
    ("peer", "kind", "step", "remedy"),
    [
        (peers.refused, "tcp_refused", "tcp", "ray start --head"),
        (peers.full_queue, "tcp_timeout", "tcp", "firewall"),
        (peers.http_server, "not_ray", "health", "Use the GCS port"),
        (peers.silent, "health_timeout", "health", "gcs_server"),
        (lambda: fake_head(token="t"), "auth_missing", "identity", "ray.token_file"),
        (lambda: fake_head(version="1.9"), "version_mismatch", "identity", "session.python"),
        (lambda: fake_head(version=RAY_VERSION), "no_local_node", "local_node", "ray start --addr"),
    ],
    ids=["dead", "full", "http", "silent", "no token", "version", "no raylet"],
)
async def test_fault_and_remedy(by: str, peer: Peer, kind: str, step: str, remedy: str) -> None:
    """What listens at the address decides class, step and remedy, in time."""
    async with peer() as address, _patient(by) as patient:
        report = await patient.report(address)
        walk = _failed(report, kind, step, remedy)

        assert (report["by"], report["uid"]) == (by, os.geteuid())
        assert (walk["address"], walk["source"]) == (address, "request")
        assert (_host(report, "control")["verdict"] == "ok") == (by == "castrayd")


@both
async def test_known_candidates_are_walked_and_shown(by: str) -> None:
    """In their order, side by side; a bad one is told as such; text and document say the same."""
    async with peers.silent() as silent, peers.refused() as refused:
        config = f'[ray]\naddress = ["{silent}", "{refused}", "{silent}"]\n'
        async with _patient(by, config=config) as patient:
            report = await patient.report()
            code, out, err = await patient.ctl("doctor")

    assert [walk["address"] for walk in report["candidates"]] == [silent, refused]
    assert [walk["source"] for walk in report["candidates"]] == ["config"] * 2
    assert (code, err) == (1, "")
    assert "\x1b" not in out
    for part in ("✔ ok", "✘ failed", "· not reached", "health_timeout: ", "tcp_refused: ", "→ "):
        assert part in out


@both
async def test_nothing_to_walk_to_is_a_fault_unless_a_cluster_may_be_started(by: str) -> None:
    """With leave to start one, nothing needs to be found, and no raylet to be here."""
    async with _patient(by) as patient:
        report = await patient.report()
        assert (report["ok"], report["error"]["type"]) == (False, "no_cluster_found")
    if by == "castrayctl":  # a daemon would start it
        async with _patient(by, environ={"CASTRAYD_RAY__ALLOW_LOCAL_START": "true"}) as patient:
            report = await patient.report()
            assert (report["ok"], report["error"]) == (True, None)


@pytest.mark.ray
@both
async def test_good_head_is_well(by: str, head: RayHead) -> None:
    """Every step with what was seen."""
    raylet = head.raylet
    assert raylet is not None
    async with _patient(by) as patient:
        report = await patient.report(head.address)
        (walk,) = report["candidates"]
        seen = {step["name"]: step["seen"] for step in walk["steps"]}

        assert report["ok"], report
        assert all(step["seconds"] is not None for step in walk["steps"])
        assert seen["resolve"] == {"addresses": head.address}
        assert seen["tcp"] == {"connected_to": head.address}
        assert seen["identity"] == {
            "cluster_id": raylet.cluster_id,
            "ray_there": RAY_VERSION,
            "ray_here": RAY_VERSION,
        }
        assert seen["local_node"] == {"raylet_pid": str(raylet.pid), "socket": raylet.socket}
        assert _host(report, "raylet")["verdict"] == "ok"
        code, out, _ = await patient.ctl("doctor", head.address)
        assert (code, "all is well" in out) == (0, True)


@pytest.mark.ray
async def test_no_session_is_spent_and_nothing_changed(head: RayHead) -> None:
    """The doctor looks beside the session that there is, at what is configured."""
    async with _patient("castrayd", address=head.address) as patient:
        before = await patient.daemon.wait_state("connected")
        processes = patient.daemon.children()
        states = await patient.daemon.states()
        report = await patient.report()
        after = await patient.daemon.status()

        assert report["ok"]
        assert await patient.daemon.states() == states
        assert patient.daemon.children().keys() <= processes.keys()
        assert report["candidates"][0]["source"] == "env:RAY_ADDRESS"
        assert after["session"] == before["session"]
        assert after["attempt"]["id"] == before["attempt"]["id"]


@pytest.mark.ray
@both
async def test_client_port_as_gcs_port(by: str, head: RayHead) -> None:
    """The remedy names the scheme that makes it right, and with it all is well."""
    head.wait_client_server()
    url = head.client_address
    async with _patient(by) as patient:
        _failed(await patient.report(url.removeprefix("ray://")), "not_ray", "health", "ray://")
        report = await patient.report(url)

        assert report["ok"], report
        assert [step["name"] for step in report["candidates"][0]["steps"]] == [
            "resolve", "tcp", "health"
        ]  # fmt: skip


@pytest.mark.ray
@pytest.mark.lab
@both
async def test_raylet_of_another_user(by: str, head: RayHead) -> None:
    """The remedy names the user; the host's check says it too."""
    raylet = head.raylet
    assert raylet is not None
    os.chown(raylet.socket, 65534, 65534)
    os.chmod(raylet.socket, 0o755)
    try:
        async with _patient(by, prefix=POWERLESS) as patient:
            report = await patient.report(head.address)
    finally:
        os.chown(raylet.socket, os.geteuid(), os.getegid())

    _failed(report, "local_node_forbidden", "local_node", "install-units --run-as root")
    assert "its socket is not ours" in _host(report, "raylet")["seen"]


@pytest.mark.ray
async def test_wrong_token_and_missing_raylet() -> None:
    """On one head that demands a token, and then loses its raylet."""
    wrong, right = ({"RAY_AUTH_TOKEN": letter * 40} for letter in "wt")
    with ray_head(token="t" * 40) as head:
        for by in ("castrayd", "castrayctl"):
            async with _patient(by, environ=wrong) as patient:
                report = await patient.report(head.address)
                _failed(report, "auth_rejected", "identity", "cluster's own")
                assert "env:RAY_AUTH_TOKEN" in report["candidates"][0]["error"]["message"]
            async with _patient(by, environ=right) as patient:
                assert (await patient.report(head.address))["ok"]
        head.kill_raylet()
        for by in ("castrayd", "castrayctl"):
            async with _patient(by, environ=right) as patient:
                report = await patient.report(head.address)
                _failed(report, "no_local_node", "local_node", "ray start --address")


# --- who may ask, and what is never told ---


@pytest.mark.lab
async def test_reader_may_ask_and_not_aim() -> None:
    """An address is shown the token: a reader names none, and is told so by exit 5."""
    config = '[control]\nread_groups = ["nogroup"]\n'
    async with peers.refused() as address, _patient("castrayd", config=config) as patient:
        patient.daemon.folder.chmod(0o755)
        code, out, err = await patient.ctl("--json", "doctor", script=STRANGER)
        seen = _host(json.loads(out), "control")["seen"]
        aimed = await patient.ctl("doctor", address, script=STRANGER)

        assert (code, err, seen.endswith(": you may read")) == (1, "", True)
        assert aimed[:2] == (5, "")
        assert "castrayctl: forbidden: " in aimed[2]


@both
@pytest.mark.parametrize("address", ["", "auto", "local", "nope", "ray://"])
async def test_address_that_is_none_is_refused_before_anything(by: str, address: str) -> None:
    """Exit 2 of castrayctl; 400 of the API."""
    async with _patient(by) as patient:
        code, out, err = await patient.ctl("doctor", address)
        assert (code, out) == (2, "")
        assert "'ADDRESS'" in err
        if by == "castrayd":
            status, reply = await patient.daemon.ask("GET", f"/api/doctor?address={address}")
            assert (status, reply["error"]["field"]) == (400, "address")


async def test_bad_settings_are_named_where_there_is_no_daemon() -> None:
    """As `castrayd check-config` names them."""
    async with _patient("castrayctl", config="[ray]\nnope = 1\n") as patient:
        code, out, err = await patient.ctl("doctor")
        assert (code, out) == (1, "")
        assert "ray.nope" in err


@both
async def test_bundle_holds_everything_and_no_secret(by: str) -> None:
    """Tokens in a file and in the environment, and a variable for the workers, are hunted for."""
    planted = ["f1le" * 10, "env1" * 10, "w0rk" * 10]
    async with (
        fake_head(version=RAY_VERSION, token=planted[0]) as head,
        _patient(
            by,
            address=head,
            config=f'[ray]\nenv_vars = {{PASSWORD = "{planted[2]}"}}\n',
            environ={"RAY_AUTH_TOKEN": planted[1]},
        ) as patient,
    ):
        folder = patient.daemon.folder
        token = folder / "token"
        token.write_text(planted[0])
        token.chmod(0o640)
        with (folder / "castrayd.toml").open("a") as config:
            config.write(f'token_file = "{token}"\n')
        if by == "castrayd":
            await patient.daemon.post("/api/reload")
        path = folder / "bundle.tar.gz"
        code, out, err = await patient.ctl("doctor", "--bundle", str(path))
        again = await patient.ctl("doctor", "--bundle", str(path))
        mode = path.stat().st_mode & 0o777
        members = _members(str(path))

    assert (code, err) == (1, "")  # no raylet here
    assert f"wrote {path}" in out
    assert (again[0], "File exists" in again[2]) == (1, True)
    assert mode == 0o600
    names = {"doctor", "settings", "versions"}
    names |= {"status", "attempts", "events"} if by == "castrayd" else {"daemon"}
    assert names == set(members)
    for text in (out, err, *again[1:], *members.values()):
        assert not [secret for secret in planted if secret in text]
    report = json.loads(members["doctor"])
    assert report["candidates"][0]["error"]["type"] == "no_local_node"  # the file's token was shown
    assert _host(report, "token")["verdict"] == "warning"
    assert json.loads(members["settings"])["ray"]["token_file"] == str(token)
    assert json.loads(members["settings"])["ray"]["env_vars"] == {"PASSWORD": "(not shown)"}


def _members(path: str) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        return {
            name.removeprefix("castray-bundle/").removesuffix(".json"): file.read().decode()
            for name, file in found.items()
            if file is not None
        }
