"""Bad input on every route: a typed refusal, and nothing is changed."""

import contextlib
import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.forwarder import forwarded
from tests.support.peers import refused

CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"
BODIES = ("/api/reconnect", "/api/pause", "/api/resume", "/api/reload")


async def _raw(daemon: Daemon, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Send a body as it is."""
    return await daemon.ask(method, path, data=io.BytesIO(body))


async def _refused(daemon: Daemon, method: str, path: str, body: bytes, code: int) -> str:
    """The request is refused with a typed error; returns the error's type."""
    seen, reply = await _raw(daemon, method, path, body)
    assert seen == code, (method, path, body[:50], reply)
    assert set(reply["error"]) >= {"type", "message"}, reply
    kind: str = reply["error"]["type"]
    return kind


async def test_bad_bodies_are_refused_by_type_and_change_nothing() -> None:
    """Broken JSON, wrong types, unknown fields and huge bodies: 4xx, typed, without effect."""
    async with refused() as address, running_daemon(address=address) as daemon:
        await daemon.wait_status("an attempt", lambda s: s["error"] is not None)
        manual_before = await _manual(daemon)
        for path in BODIES:
            for body in (
                b"{",
                b"[]",
                b"1",
                b'"x"',
                b"null",
                b'{"nope": 1}',
                b"\xff\xfe",
                b'{"a":}',
            ):
                assert await _refused(daemon, "POST", path, body, 400) == "bad_request"
            huge = b'{"reason": "' + b"x" * (1 << 20) + b'"}'
            assert await _refused(daemon, "POST", path, huge, 413) == "too_large"
        for body in (
            b'{"address": 1}',
            b'{"address": "x"}',
            b'{"address": "local"}',
            b'{"reason": 5}',
        ):
            assert await _refused(daemon, "POST", "/api/reconnect", body, 400) == "bad_request"
        for body in (b"", b"{}", b'{"level": "loud"}', b'{"level": 1}'):
            assert await _refused(daemon, "PUT", "/api/log-level", body, 400) == "bad_request"
        status = await daemon.status()

        assert status["desired"] == "up"
        assert manual_before == await _manual(daemon)
        assert await daemon.get("/api/log-level") == {"level": "debug"}


async def _manual(daemon: Daemon) -> int:
    attempts = (await daemon.get("/api/attempts"))["attempts"]
    return sum(attempt["trigger"] == "manual" for attempt in attempts)


async def test_field_at_fault_is_named() -> None:
    """Whoever sends a bad value is told which one."""
    async with refused() as address, running_daemon(address=address) as daemon:
        _, reply = await _raw(daemon, "POST", "/api/reconnect", b'{"address": 1}')
        assert reply["error"]["field"] == "address"
        _, reply = await daemon.ask("GET", "/api/attempts?limit=0")
        assert reply["error"]["field"] == "limit"


@pytest.mark.parametrize(
    "target",
    ["/api/status?x=1", "/api/attempts?limit=x", "/api/attempts?limit=1&limit=2",
     "/api/events?since=-1", "/api/events?follow=maybe", "/api/health/ready?verbose=9"],
)  # fmt: skip
async def test_bad_queries_are_refused(target: str) -> None:
    """Unknown, repeated or unreadable parameters: 400 with the parameter's name."""
    async with refused() as address, running_daemon(address=address) as daemon:
        code, reply = await daemon.ask("GET", target)

        assert (code, reply["error"]["type"]) == (400, "bad_request")
        assert reply["error"]["field"]


async def test_unknown_routes_and_methods_are_typed() -> None:
    """404 and 405 are errors like the others."""
    async with refused() as address, running_daemon(address=address) as daemon:
        for target in ("/", "/api", "/api/nope", "/api/attempts/nope"):
            code, reply = await daemon.ask("GET", target)
            assert (code, reply["error"]["type"]) == (404, "not_found")
        code, reply = await daemon.ask("DELETE", "/api/status")
        assert code == 405
        assert reply["error"]["type"] == "bad_request"
        code, reply = await daemon.ask("GET", "/api/cluster/nodes")
        assert (code, reply["error"]["type"]) == (503, "not_connected")


_MEMBER = """
import os, socket, sys
os.setgroups([65533]); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
body = sys.argv[2].encode()
s.sendall(b"POST /api/reconnect HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
          b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
data = b""
while part := s.recv(65536): data += part
print(data.decode())
"""

_STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
lines = [sys.argv[2] + " HTTP/1.1", "Host: x", "Connection: close", "Content-Length: 0", "", ""]
s.sendall("\\r\\n".join(lines).encode())
data = b""
while part := s.recv(65536): data += part
print(data.decode())
"""


@pytest.mark.lab
@pytest.mark.parametrize("request_line", ["GET /api/status", "POST /api/pause"])
async def test_stranger_is_forbidden(request_line: str) -> None:
    """A user who is neither root, nor we, nor in a group may not even look."""
    async with refused() as address, running_daemon(address=address) as daemon:
        daemon.folder.chmod(0o755)
        done = await anyio.run_process(
            [sys.executable, "-c", _STRANGER, str(daemon.socket), request_line]
        )
        head, _, body = done.stdout.decode().partition("\r\n\r\n")

        assert " 403 " in head.splitlines()[0]
        assert json.loads(body)["error"]["type"] == "forbidden"
        assert (await daemon.status())["desired"] == "up"


@pytest.mark.lab
async def test_member_of_a_group_asks_for_an_attempt_but_names_no_address() -> None:
    """What it named would be shown the cluster's token."""
    name = "castray-test-65533"
    await anyio.run_process(["groupadd", "--gid=65533", name], check=False)
    try:
        config = f'[control]\nwrite_groups = ["{name}"]\n'
        async with refused() as address, running_daemon(address=address, config=config) as daemon:
            daemon.folder.chmod(0o755)
            for body, expected in (("{}", " 202 "), (f'{{"address": "{address}"}}', " 403 ")):
                command = [sys.executable, "-c", _MEMBER, str(daemon.socket), body]
                done = await anyio.run_process(command)
                assert expected in done.stdout.decode().splitlines()[0]
    finally:
        await anyio.run_process(["groupdel", name], check=False)


async def test_client_that_reads_nothing_is_cut_off() -> None:
    """Answers that nobody takes wait for a while, and then no more; others notice nothing."""
    request = b"GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    async with refused() as address, running_daemon(address=address) as daemon:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(daemon.socket))
            deaf.settimeout(0.0)
            with contextlib.suppress(BlockingIOError):
                for _ in range(5000):
                    deaf.sendall(request)
            with anyio.fail_after(30):
                while not _is_cut(deaf):
                    await daemon.status()
                    await anyio.sleep(0.2)
        await daemon.stop()


def _is_cut(connection: socket.socket) -> bool:
    """Whether the other end has gone; what it had sent before is still there to be read."""
    try:
        connection.send(b"G")
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


async def test_second_daemon_on_the_socket_is_refused() -> None:
    """The lock decides: exit 73, and the first one goes on."""
    async with refused() as address, running_daemon(address=address) as daemon:
        command = [sys.executable, "-m", "castrayd", "run", f"--socket={daemon.socket}",
                   f"--state-dir={daemon.folder / 'other'}"]  # fmt: skip
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

        assert second.returncode == 73
        assert "another castrayd" in second.stderr
        assert await daemon.get("/api/health/live") == {"status": "ok"}


async def test_stale_socket_is_replaced() -> None:
    """What a killed daemon left in the way does not keep the next one from starting."""
    async with refused() as address, running_daemon(address=address) as daemon:
        daemon.signal(9)
        await daemon.exit_code()
        assert daemon.socket.is_socket()
        daemon.launch()
        await daemon.answers()


@pytest.mark.parametrize(
    ("arguments", "config", "says"),
    [
        (["--socket=/tmp/" + "x" * 120], "", "107"),
        ([], "[ray]\nadress = 'x'\n[log]\nlevel = 'loud'\n", "ray.adress"),
        ([], "[ray]\naddress = 'nonsense'\n", "ray.address"),
        (["--address=nonsense"], "", "host:port"),
    ],
)
def test_bad_start_is_exit_78(arguments: list[str], config: str, says: str, tmp_path: Path) -> None:
    """Configuration that cannot work ends the start with what is wrong."""
    path = tmp_path / "c.toml"
    path.write_text(config)
    common = [f"--config={path}", f"--state-dir={tmp_path}", f"--socket={tmp_path}/s"]
    command = [sys.executable, "-m", "castrayd", "run", *common, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 78
    assert says in done.stderr


async def test_schemathesis_finds_no_fault() -> None:
    """Generated requests, good and bad, get documented replies alone: no 5xx but the 503s."""
    async with refused() as address, running_daemon(address=address) as daemon:
        with forwarded(daemon.socket) as url:
            command = [
                sys.executable, "-m", "schemathesis.cli", "run", f"{url}/api/openapi.json",
                "--url", url, "--max-examples", "15", "--workers", "1", "--seed", "1",
                "--checks", CHECKS,
                "--exclude-path", "/api/events", "--request-timeout", "10",
                "--generation-database", "none", "--no-color",
            ]  # fmt: skip
            done = await anyio.run_process(command, check=False, cwd=daemon.folder)

        assert done.returncode == 0, done.stdout.decode()[-6000:]
        assert await daemon.get("/api/health/live") == {"status": "ok"}
