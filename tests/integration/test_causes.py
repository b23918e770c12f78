"""Every class of fault of an attempt, raised on the running daemon by a real cause."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from typing import Any

import pytest

from tests.support import peers
from tests.support.daemon import Daemon, running_daemon
from tests.support.fake_head import fake_head
from tests.support.proxy import proxy_to
from tests.support.ray import RayHead, ray_head

RAY_VERSION = metadata.version("ray")
Peer = Callable[[], AbstractAsyncContextManager[str]]


async def _first_error(daemon: Daemon, timeout_s: float = 20) -> dict[str, Any]:
    status = await daemon.wait_status("an error", lambda s: s["error"] is not None, timeout_s)
    error: dict[str, Any] = status["error"]
    assert error["hint"]
    assert (
        list(status["attempt"]["phases"])[-1:] == [error["phase"]]
        or not status["attempt"]["phases"]
    )
    return error


@pytest.mark.parametrize(
    ("peer", "kind", "phase"),
    [
        (peers.refused, "tcp_refused", "tcp"),
        (peers.full_queue, "tcp_timeout", "tcp"),
        (peers.resetting, "tcp_reset", "health"),
        (peers.http_server, "not_ray", "health"),
        (peers.banner, "not_ray", "health"),
        (peers.silent, "health_timeout", "health"),
        (lambda: fake_head(tls=True), "tls_failure", "health"),
        (lambda: fake_head(serving=2), "gcs_not_serving", "health"),
        (lambda: fake_head(version="1.99.0"), "version_mismatch", "identity"),
        (fake_head, "no_local_node", "local_node"),
        (lambda: fake_head(knows_identity=False), "no_local_node", "local_node"),
    ],
)
async def test_peer_that_is_no_good_head_is_named(peer: Peer, kind: str, phase: str) -> None:
    """What listens at the address decides class and phase."""
    config = "[deadlines]\nlocal_node_s = 0.5\n"
    async with peer() as address, running_daemon(address=address, config=config) as daemon:
        error = await _first_error(daemon)

        assert (error["type"], error["phase"]) == (kind, phase)


_SILENT_DNS = (
    "ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up;"
    "ip addr add 192.0.2.1/24 dev d0;"
    "ip neigh add 192.0.2.53 lladdr 02:00:00:00:00:01 dev d0;"
    "echo nameserver 192.0.2.53 >$0; mount --bind $0 /etc/resolv.conf"
)


_NO_DNS = "echo hosts: files >$0; mount --bind $0 /etc/nsswitch.conf"


@pytest.mark.lab
@pytest.mark.parametrize(
    ("network", "address", "kind", "code"),
    [
        ("ip route add unreachable 192.0.2.0/24", "192.0.2.1:6379", "host_unreachable", "EHOST"),
        ("true", "192.0.2.1:6379", "network_unreachable", "ENET"),
        (_SILENT_DNS, "head.example:6379", "dns_timeout", ""),
        (_NO_DNS, "head.example:6379", "dns_failure", "EAI_"),
    ],
)
async def test_network_that_leads_nowhere_is_named(
    network: str, address: str, kind: str, code: str
) -> None:
    """In a network of its own: no route, a route that rejects, a name server that is silent."""
    async with running_daemon(address=address, launch=False) as daemon:
        script = f'ip link set lo up; {network}; exec "$@"'
        resolver = str(daemon.folder / "resolv.conf")
        daemon.launch("unshare", "--net", "--mount", "sh", "-c", script, resolver)
        await daemon.answers()
        error = await _first_error(daemon)

        assert error["type"] == kind
        assert (error["code"] or "").startswith(code)


@pytest.mark.parametrize("slow", ["health", "identity"])
async def test_proxy_that_delays_one_stage_moves_that_phase_alone(slow: str) -> None:
    """300 ms in one place show in that phase, and in no other."""
    config = "[deadlines]\nlocal_node_s = 0.01\n"
    async with fake_head(version=RAY_VERSION) as head:
        host, _, port = head.rpartition(":")
        async with proxy_to(host, int(port)) as proxy:
            if slow == "health":
                proxy.first_bytes_delay_s = 0.3
            else:
                proxy.held, proxy.held_s = RAY_VERSION.encode(), 0.3
            async with running_daemon(address=proxy.address, config=config) as daemon:
                await _first_error(daemon)
                phases = (await daemon.events("castray.connection.attempt"))[0]["phases"]

    assert 0.3 <= phases.pop(slow) < 0.6
    assert max(phases.values()) < 0.2


@pytest.mark.parametrize("address", ["6379", "http://h:8265", "h:0", "local", "h:99999", "a b:1"])
async def test_bad_ray_address_is_a_fault_of_the_running_daemon(address: str) -> None:
    """A bad RAY_ADDRESS does not end the daemon; an operator is needed, and never a local start."""
    async with running_daemon("--allow-local-start", address=address) as daemon:
        error = await _first_error(daemon)
        status = await daemon.status()

        assert (error["type"], error["retry"]) == ("address_invalid", "operator")
        assert status["next_retry_in_s"] > 20
        assert "needs_operator" in [warning["code"] for warning in status["warnings"]]


@pytest.mark.lab
async def test_nothing_configured_is_no_cluster_found() -> None:
    """Without an address, a cluster here or leave to start one there is nothing to attach to."""
    async with running_daemon(isolated=True) as daemon:
        error = await _first_error(daemon)
        assert (error["type"], error["phase"]) == ("no_cluster_found", "discover")


@pytest.mark.ray
async def test_token_missing_wrong_and_right() -> None:
    """A cluster with a token: none, a wrong one and the right one end as they should."""
    with ray_head(token="t" * 40) as head:
        async with running_daemon(address=head.address) as daemon:
            assert (await _first_error(daemon))["type"] == "auth_missing"
        wrong = {"RAY_AUTH_TOKEN": "w" * 40}
        async with running_daemon(address=head.address, environ=wrong) as daemon:
            assert (await _first_error(daemon))["type"] == "auth_rejected"
            assert "w" * 40 not in daemon.log_text()
        right = {"RAY_AUTH_TOKEN": "t" * 40}
        async with running_daemon(address=head.address, environ=right) as daemon:
            await daemon.wait_state("connected")
            assert "t" * 40 not in daemon.log_text()


@pytest.mark.ray
async def test_token_against_a_cluster_that_wants_none(head: RayHead) -> None:
    """A token that is not asked for does no harm."""
    environ = {"RAY_AUTH_TOKEN": "t" * 40}
    async with running_daemon(address=head.address, environ=environ) as daemon:
        await daemon.wait_state("connected")


@pytest.mark.ray
async def test_python_of_another_version_is_named_in_init(head: RayHead, other_python: str) -> None:
    """A session in another Python than the cluster's is refused by Ray, and named by us."""
    config = f'[session]\npython = "{other_python}"\n'
    async with running_daemon(address=head.address, config=config) as daemon:
        error = await _first_error(daemon)

        assert (error["type"], error["phase"]) == ("version_mismatch", "init")
        assert error["retry"] == "operator"


@pytest.mark.ray
async def test_cluster_of_a_python_without_castrayd(cluster_python: str) -> None:
    """With session.python a cluster is joined by its own interpreter, which lacks castrayd."""
    config = f'[session]\npython = "{cluster_python}"\n'
    with ray_head(python=cluster_python) as head:
        async with running_daemon(address=head.address, config=config) as daemon:
            status = await daemon.wait_state("connected")
            line = daemon.children()[status["session"]["pid"]]

            assert line.startswith(cluster_python)


@pytest.mark.ray
@pytest.mark.parametrize("python", ["/nonexistent/python", "/bin/true"])
async def test_session_that_cannot_start_is_named(head: RayHead, python: str) -> None:
    """A bad session.python is a fault of phase spawn, with what the system said."""
    config = f'[session]\npython = "{python}"\n'
    async with running_daemon(address=head.address, config=config) as daemon:
        error = await _first_error(daemon)

        assert (error["type"], error["phase"]) == ("session_spawn_failed", "spawn")


@pytest.mark.ray
async def test_interpreter_without_ray_is_dependency_missing(head: RayHead) -> None:
    """An interpreter that lacks ray is named, not only that it failed."""
    base = os.path.realpath(sys.executable)
    config = f'[session]\npython = "{base}"\n'
    async with running_daemon(address=head.address, config=config) as daemon:
        assert (await _first_error(daemon))["type"] == "dependency_missing"


@pytest.mark.ray
@pytest.mark.lab
async def test_raylet_of_another_user_is_local_node_forbidden() -> None:
    """A raylet whose socket is not ours to write to is named with its user; Ray would abort."""
    with ray_head() as head:
        raylet = head.raylet
        assert raylet is not None
        os.chown(raylet.socket, 65534, 65534)
        os.chmod(raylet.socket, 0o755)
        async with running_daemon(address=head.address, launch=False) as daemon:
            # root without its power over files is a user like any other
            daemon.launch(
                "setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"
            )
            await daemon.answers()
            error = await _first_error(daemon)

            assert (error["type"], error["phase"]) == ("local_node_forbidden", "local_node")
            assert (error["retry"], error["code"]) == ("operator", "EACCES")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("config", "temp_dir", "kind"),
    [
        ('[ray]\nlocal_working_dir = "/nonexistent"\n', "/tmp", "config_invalid"),
        ("", "/proc", "init_failed"),
    ],
)
async def test_local_start_that_cannot_be_is_named(config: str, temp_dir: str, kind: str) -> None:
    """A folder that is not there is the settings' fault; one that Ray cannot make is not."""
    environ = {"TMPDIR": temp_dir}
    async with running_daemon("--allow-local-start", config=config, environ=environ) as daemon:
        error = await _first_error(daemon, 40)

        assert (error["type"], error["phase"]) == (kind, "init")


@pytest.mark.ray
async def test_frozen_raylet_while_attached_recovers(head: RayHead) -> None:
    """A raylet that hangs for a while degrades the attachment, and the session survives it."""
    raylet = head.raylet
    assert raylet is not None
    async with running_daemon(address=head.address) as daemon:
        before = await daemon.wait_state("connected")
        os.kill(raylet.pid, signal.SIGSTOP)
        try:
            degraded = await daemon.wait_state("degraded", 8)
        finally:
            os.kill(raylet.pid, signal.SIGCONT)
        after = await daemon.wait_state("connected", 10)

        assert degraded["reasons"][0]["type"] == "session_unresponsive"
        assert after["session"]["pid"] == before["session"]["pid"]
