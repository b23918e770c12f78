"""The checks of an attachment, against a fake head and against a real one that is hurt."""

import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import psutil
import pytest

from castrayd.core.health import Check, CheckReport
from castrayd.core.policy import Checks
from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.attached import AttachedChecks, Subjects
from castrayd.probe.credentials import Credentials
from castrayd.probe.grpc_library import load_grpc
from castrayd.probe.resolve import Endpoint, endpoint_of
from tests.support.fake_head import fake_head
from tests.support.peers import endpoint, http_server
from tests.support.proxy import proxy_to
from tests.support.ray import RayHead, ray_head


async def _good(_timeout_s: float) -> None:
    """A session that answers."""


@dataclass
class _Seen:
    """The reports, with the time of each."""

    reports: list[tuple[float, CheckReport]] = field(default_factory=list)
    checks: AttachedChecks | None = None

    def __call__(self, report: CheckReport) -> None:
        self.reports.append((time.perf_counter(), report))

    def of(self, check: Check) -> list[CheckReport]:
        return [report for _, report in self.reports if report.check is check]

    async def until(
        self, check: Check, kind: ErrorType | None, timeout_s: float, since: int = 0
    ) -> float:
        """Wait for a report of the kind; returns when it was made."""
        with anyio.fail_after(timeout_s):
            while True:
                for at_s, report in self.reports[since:]:
                    fault = report.fault.type if report.fault else None
                    if report.check is check and fault is kind:
                        return at_s
                await anyio.sleep(0.001)


@asynccontextmanager
async def _watching(subjects: Subjects, checks: Checks | None = None) -> AsyncIterator[_Seen]:
    await load_grpc()
    seen = _Seen()
    seen.checks = AttachedChecks(subjects, lambda: checks or Checks())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(seen.checks.run, seen)
        yield seen
        tasks.cancel_scope.cancel()


async def test_heartbeat_that_fails_at_once_is_paced() -> None:
    """A session that answers every ask with an error is asked five times a second, not ever."""
    asked = 0

    async def failing(_timeout_s: float) -> None:
        nonlocal asked
        asked += 1
        raise AttachError(Fault.of(ErrorType.SESSION_UNRESPONSIVE, Phase.ATTACHED, "an error"))

    async with (
        fake_head() as address,
        _watching(Subjects(endpoint(address), None, None, Credentials(), _good, failing)) as seen,
    ):
        await anyio.sleep(1.0)

    assert 2 <= asked <= 7
    assert all(report.certain is False for report in seen.of(Check.HEARTBEAT))


async def test_another_cluster_is_replaced() -> None:
    """An id that is not ours is certain."""
    async with fake_head(cluster_id=b"d" * 28) as address:
        subjects = Subjects(endpoint(address), None, (b"c" * 28).hex(), Credentials(), _good, _good)
        async with _watching(subjects) as seen:
            await seen.until(Check.IDENTITY, ErrorType.CLUSTER_REPLACED, 2)
        assert seen.of(Check.IDENTITY)[0].certain


async def test_silence_about_the_id_is_neither_good_nor_bad() -> None:
    """`ask_identity` raises, so that nobody takes it for the same cluster."""
    async with fake_head() as address, proxy_to("127.0.0.1", endpoint(address).port) as proxy:
        proxy.held, proxy.held_s = b"GetClusterId", 3.0
        subjects = Subjects(endpoint(proxy.address), None, "63" * 28, Credentials(), _good, _good)
        async with _watching(subjects, Checks(timeout_s=0.3)) as seen:
            assert seen.checks is not None
            with pytest.raises(AttachError):
                await seen.checks.ask_identity()
            await anyio.sleep(0.5)
        assert seen.of(Check.IDENTITY) == []


async def test_dependants_are_asked_at_once_when_the_control_plane_is_back() -> None:
    """With an interval of a minute the id is asked again all the same: it may be another head."""
    checks = Checks(interval_s=60.0, timeout_s=0.5)
    async with fake_head() as first, proxy_to("127.0.0.1", endpoint(first).port) as proxy:
        subjects = Subjects(
            endpoint(proxy.address), None, (b"c" * 28).hex(), Credentials(), _good, _good
        )
        async with _watching(subjects, checks) as seen:
            await seen.until(Check.IDENTITY, None, 3)
            async with fake_head(cluster_id=b"d" * 28) as second:
                proxy._target = ("127.0.0.1", endpoint(second).port)
                await anyio.sleep(0.2)  # the stream is held by now: its break is what is told
                _cut(endpoint(proxy.address).port)
                await seen.until(Check.GCS, ErrorType.CONTROL_PLANE_LOST, 3)
                await seen.until(Check.IDENTITY, ErrorType.CLUSTER_REPLACED, 3)


def _cut(port: int) -> None:
    """Break this process's own connections to a port, as a network would."""
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == port:
            with socket.socket(fileno=os.dup(connection.fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.ray
async def test_token_that_is_refused_later_is_told() -> None:
    """The health needs none, so that it is the identity's question that tells."""
    async with fake_head(token="t" * 40) as address:
        theirs = (b"c" * 28).hex()
        subjects = Subjects(endpoint(address), None, theirs, Credentials("w" * 40), _good, _good)
        async with _watching(subjects) as seen:
            await seen.until(Check.IDENTITY, ErrorType.AUTH_REJECTED, 3)
            await seen.until(Check.GCS, None, 3)


async def test_something_else_that_listens_there_later_is_told() -> None:
    """The head has gone and its port was given to a web server: no silence, and no Ray."""
    async with (
        fake_head() as first,
        http_server() as other,
        proxy_to("127.0.0.1", endpoint(first).port) as proxy,
    ):
        subjects = Subjects(endpoint(proxy.address), None, None, Credentials(), _good, _good)
        async with _watching(subjects, Checks(interval_s=0.2, timeout_s=1.0)) as seen:
            await seen.until(Check.GCS, None, 3)
            proxy._target = ("127.0.0.1", endpoint(other).port)
            await anyio.sleep(0.2)
            _cut(endpoint(proxy.address).port)
            await seen.until(Check.GCS, ErrorType.NOT_RAY, 5)


async def test_killed_gcs_is_certain_at_once() -> None:
    """The health stream breaks, and that is reported before anything is asked."""
    with ray_head() as own:
        async with _watching(_of(own)) as seen:
            await seen.until(Check.GCS, None, 5)
            await anyio.sleep(0.3)
            gcs = own.gcs_pid
            assert gcs is not None
            killed_s = time.perf_counter()
            os.kill(gcs, signal.SIGKILL)
            at_s = await seen.until(Check.GCS, ErrorType.CONTROL_PLANE_LOST, 5)
            assert at_s - killed_s < 0.200  # no poll; the kernel's part grows with the load


@pytest.mark.ray
async def test_stopped_gcs_is_two_misses_within_4_5_s_and_comes_back(head: RayHead) -> None:
    """Silence is uncertain each time; the second ask follows at once; then heartbeat and id."""
    gcs = head.gcs_pid
    assert gcs is not None
    async with _watching(_of(head)) as seen:
        await seen.until(Check.IDENTITY, None, 5)
        since = len(seen.reports)
        stopped_s = time.perf_counter()
        os.kill(gcs, signal.SIGSTOP)
        try:
            with anyio.fail_after(6):
                while sum(r.fault is not None for r in seen.of(Check.GCS)) < 2:
                    await anyio.sleep(0.005)
            took_s = time.perf_counter() - stopped_s
        finally:
            os.kill(gcs, signal.SIGCONT)
        misses = [report for report in seen.of(Check.GCS) if report.fault]
        await seen.until(Check.IDENTITY, None, 3, since)

    assert took_s < 4.5
    assert [(r.fault.type, r.certain) for r in misses[:2] if r.fault] == [
        (ErrorType.CONTROL_PLANE_TIMEOUT, False)
    ] * 2


@pytest.mark.ray
async def test_killed_raylet_is_certain_at_once() -> None:
    """The stream makes it look, the refused port or the ended process makes it certain."""
    with ray_head() as own:
        raylet = own.raylet
        assert raylet is not None
        async with _watching(_of(own)) as seen:
            await seen.until(Check.RAYLET, None, 5)
            await anyio.sleep(0.3)
            killed_s = time.perf_counter()
            os.kill(raylet.pid, signal.SIGKILL)
            at_s = await seen.until(Check.RAYLET, ErrorType.LOCAL_NODE_LOST, 5)
            assert at_s - killed_s < 0.200  # no poll; the kernel's part grows with the load


@pytest.mark.ray
@pytest.mark.parametrize("known", ["port", "process"])
async def test_either_sign_alone_tells_a_killed_raylet(known: str) -> None:
    """Without the node's id its port tells, without the port the end of its process."""
    with ray_head() as own:
        raylet, subjects = own.raylet, _of(own)
        assert raylet is not None
        port = subjects.raylet if known == "port" else None
        node_id = subjects.node_id if known == "process" else None
        subjects = Subjects(subjects.gcs, port, None, Credentials(), _good, _good, node_id)
        async with _watching(subjects) as seen:
            await anyio.sleep(0.5)
            killed_s = time.perf_counter()
            os.kill(raylet.pid, signal.SIGKILL)
            at_s = await seen.until(Check.RAYLET, ErrorType.LOCAL_NODE_LOST, 5)
            assert at_s - killed_s < 0.200


@pytest.mark.ray
async def test_stopped_raylet_is_unresponsive_and_no_loss(head: RayHead) -> None:
    """A raylet that hangs for a while is never reported as gone."""
    raylet = head.raylet
    assert raylet is not None
    async with _watching(_of(head)) as seen:
        await seen.until(Check.RAYLET, None, 5)
        os.kill(raylet.pid, signal.SIGSTOP)
        try:
            await seen.until(Check.RAYLET, ErrorType.SESSION_UNRESPONSIVE, 5)
            since = len(seen.reports)
        finally:
            os.kill(raylet.pid, signal.SIGCONT)
        await seen.until(Check.RAYLET, None, 5, since)
        kinds = {report.fault.type for report in seen.of(Check.RAYLET) if report.fault}
        assert kinds == {ErrorType.SESSION_UNRESPONSIVE}


@pytest.mark.ray
async def test_idle_checks_cost_little(head: RayHead) -> None:
    """A guard against a loop that spins; the figure itself is measured over a longer time."""
    async with _watching(_of(head)) as seen:
        await seen.until(Check.IDENTITY, None, 5)
        before = _cpu_s()
        await anyio.sleep(6.0)
        assert (_cpu_s() - before) / 6.0 < 0.02


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _of(head: RayHead) -> Subjects:
    """What an attachment to the head watches, its raylet's port found without Ray."""
    raylet = head.raylet
    assert raylet is not None
    gcs = endpoint(head.address)
    return Subjects(
        gcs,
        _node_manager(raylet.pid),
        raylet.cluster_id,
        Credentials(),
        _good,
        _good,
        raylet.node_id,
    )


def _node_manager(pid: int) -> Endpoint:
    """Return the raylet's port that answers a health check."""
    ports = {
        c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == "LISTEN"
    }
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    for port in sorted(ports):
        with socket.create_connection(("127.0.0.1", port), 1.0) as sock:
            sock.sendall(preface)
            sock.settimeout(1.0)
            if sock.recv(9)[3:4] == b"\x04":
                return endpoint_of("127.0.0.1", port)
    raise AssertionError(f"no gRPC port among {ports}")
