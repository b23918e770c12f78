"""Names: resolved, unknown, and asked of a resolver that never answers."""

import socket
import subprocess
import sys
import time

import anyio
import pytest

from castrayd.core.candidates import parse_address
from castrayd.errors import AttachError, ErrorType
from castrayd.probe.resolve import resolve

_HANGING = """
import socket, time
socket.getaddrinfo = lambda *_a, **_k: time.sleep(60)   # as one without an answering server
import anyio
from castrayd.core.candidates import parse_address
from castrayd.errors import AttachError
from castrayd.probe.resolve import resolve
async def main():
    for _ in range(6):
        try:
            await resolve(parse_address("head.example:1"), timeout_s=0.05)
        except AttachError as error:
            print(error.fault.type, "hang" in error.fault.message)
    print(await resolve(parse_address("127.0.0.1:1"), timeout_s=0.05))
anyio.run(main)
"""


@pytest.mark.parametrize(
    ("text", "ip", "target"),
    [("127.0.0.1:6379", "127.0.0.1", "127.0.0.1:6379"), ("[::1]:6379", "::1", "[::1]:6379")],
)
async def test_literal_is_not_asked_of_anybody(text: str, ip: str, target: str) -> None:
    """An IP address is its own answer, at once."""
    began_s = time.perf_counter()
    (endpoint,) = await resolve(parse_address(text), timeout_s=1.0)

    assert (endpoint.ip, endpoint.target) == (ip, target)
    assert time.perf_counter() - began_s < 0.05


async def test_localhost_resolves() -> None:
    """A name of /etc/hosts becomes endpoints with the address's port, each once."""
    endpoints = await resolve(parse_address("localhost:6379"), timeout_s=2.0)

    assert {endpoint.port for endpoint in endpoints} == {6379}
    assert len(set(endpoints)) == len(endpoints)


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b"])
async def test_what_is_no_host_name_is_dns_failure(host: str) -> None:
    """Labels that are too long or empty: refused here, with the same class."""
    with pytest.raises(AttachError) as caught:
        await resolve(parse_address(f"{host}:1"), timeout_s=2.0)
    assert caught.value.fault.type is ErrorType.DNS_FAILURE


def test_hanging_resolver_times_out_and_does_not_hold_up_the_end() -> None:
    """Four lookups hang, further ones are not begun, literals go on, and the process ends."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _HANGING], capture_output=True, text=True, timeout=30, check=True
    )
    lines = done.stdout.splitlines()

    assert lines[:6] == ["dns_timeout False"] * 4 + ["dns_timeout True"] * 2
    assert "127.0.0.1" in lines[6]
    assert time.monotonic() - began_s < 10


async def test_more_names_than_turns_wait_for_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen at once on a network of some latency: none is told to have timed out."""
    real = socket.getaddrinfo

    def far(*_args: object, **_more: object) -> object:
        time.sleep(0.05)
        return real("127.0.0.1", 1, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", far)
    found = []

    async def ask(number: int) -> None:
        found.append(await resolve(parse_address(f"head{number}.example:1"), timeout_s=2.0))

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(ask, number)
    assert len(found) == 12
