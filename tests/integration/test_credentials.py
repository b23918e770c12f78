"""Tokens that change while running, TLS, and places that are not to be believed."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest
from anyio.abc import SocketAttribute, SocketStream

from castrayd.probe.local_node import raylets
from tests.support.daemon import running_daemon
from tests.support.processes import until
from tests.support.ray import RayHead, ray_head

TOKEN, WRONG = "t" * 40, "w" * 40


@pytest.fixture(scope="module")
def guarded() -> Iterator[RayHead]:
    """A head that wants a token."""
    with ray_head(token=TOKEN) as running:
        yield running


@pytest.mark.ray
@pytest.mark.parametrize(
    ("first", "error"), [(WRONG, "auth_rejected"), (None, "auth_missing")], ids=["wrong", "none"]
)
async def test_rotated_token_is_used_within_three_seconds(
    guarded: RayHead, tmp_path: Path, first: str | None, error: str
) -> None:
    """The file is watched while it is at fault; no minute of backoff has to pass."""
    file = tmp_path / "token"
    if first is not None:
        file.write_text(first)
    config = f'[ray]\ntoken_file = "{file}"\n'
    async with running_daemon(address=guarded.address, config=config) as daemon:
        await daemon.wait_status(error, lambda s: (s["error"] or {}).get("type") == error)
        await daemon.stands_by()
        written_s = time.monotonic()
        file.write_text(TOKEN)
        status = await daemon.wait_state("connected", 10)

        assert time.monotonic() - written_s < 3.0
        assert status["attempt"]["trigger"] == "credentials_changed"
        assert TOKEN not in daemon.log_text()


# --- TLS ---


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a certificate for every address of this host, and another CA."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ca", "stranger"):
        _openssl(
            f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name}"
            f" -keyout {folder}/{name}.key -out {folder}/{name}.pem"
        )
    families = (socket.AF_INET, socket.AF_INET6)
    found = [one for card in psutil.net_if_addrs().values() for one in card]
    names = [one.address.partition("%")[0] for one in found if one.family in families]
    extension = folder / "extension"
    extension.write_text("subjectAltName=" + ",".join(f"IP:{name}" for name in names))
    _openssl(
        f"req -newkey rsa:2048 -nodes -subj /CN=ray -keyout {folder}/key.pem -out {folder}/request"
    )
    _openssl(
        f"x509 -req -in {folder}/request -CA {folder}/ca.pem -CAkey {folder}/ca.key"
        f" -CAcreateserial -days 1 -extfile {extension} -out {folder}/cert.pem"
    )
    return folder


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)


def _tls(folder: Path, ca: str = "ca.pem") -> dict[str, str]:
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": f"{folder}/{ca}",
        "RAY_TLS_SERVER_CERT": f"{folder}/cert.pem",
        "RAY_TLS_SERVER_KEY": f"{folder}/key.pem",
    }


@pytest.fixture(scope="module")
def sealed(papers: Path) -> Iterator[RayHead]:
    """A head that speaks TLS alone."""
    with ray_head(environ=_tls(papers)) as running:
        yield running


@pytest.mark.ray
async def test_cluster_under_tls_is_attached(sealed: RayHead, papers: Path) -> None:
    """With Ray's own variables, probes and session alike."""
    async with running_daemon(address=sealed.address, environ=_tls(papers)) as daemon:
        status = await daemon.wait_state("connected", 30)
        assert status["cluster"]["id"]


@pytest.mark.ray
@pytest.mark.parametrize("fault", ["no TLS here", "another CA", "a variable is missing", "no file"])
async def test_tls_that_does_not_fit_is_named(sealed: RayHead, papers: Path, fault: str) -> None:
    """Each is `tls_failure`, and says what is wrong."""
    environ = _tls(papers, "stranger.pem" if fault == "another CA" else "ca.pem")
    if fault == "no TLS here":
        environ = {}
    elif fault == "a variable is missing":
        del environ["RAY_TLS_SERVER_KEY"]
    elif fault == "no file":
        environ["RAY_TLS_SERVER_KEY"] = f"{papers}/none.pem"
    async with running_daemon(address=sealed.address, environ=environ) as daemon:
        status = await daemon.wait_status("an error", lambda s: s["error"] is not None)

        assert status["error"]["type"] == "tls_failure"
        words = {"another CA": "certificate", "a variable is missing": "RAY_TLS_SERVER_KEY"}
        assert words.get(fault, "") in status["error"]["message"]


@pytest.mark.ray
async def test_tls_towards_a_plain_head_is_named(head: RayHead, papers: Path) -> None:
    """The other way round: we speak TLS and the head does not."""
    async with running_daemon(address=head.address, environ=_tls(papers)) as daemon:
        status = await daemon.wait_status("an error", lambda s: s["error"] is not None)

        assert status["error"]["type"] == "tls_failure"


# --- trust ---


@asynccontextmanager
async def _listening() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A port that notes what is sent to it; connections count even when they say nothing."""
    heard: list[bytes] = []

    async def listen(stream: SocketStream) -> None:
        heard.append(b"")
        async with stream:
            heard.extend([data async for data in stream])

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, listen)
            yield f"127.0.0.1:{port}", heard
            tasks.cancel_scope.cancel()


@pytest.mark.lab
@pytest.mark.parametrize("planted", ["ray_current_cluster", "file", "raylet"])
async def test_strangers_are_not_believed_and_sent_nothing(tmp_path: Path, planted: str) -> None:
    """What another user has planted is never even connected to, let alone shown a token."""
    note, file = tmp_path / "ray" / "ray_current_cluster", tmp_path / "addresses"
    note.parent.mkdir()
    config = f'[ray]\ndiscovery = ["{planted}"]\naddresses_file = "{file}"\n'
    environ = {"RAY_TMPDIR": str(tmp_path), "RAY_AUTH_TOKEN": TOKEN}
    async with _listening() as (address, heard):
        path = note if planted == "ray_current_cluster" else file
        if planted == "raylet":
            process = _planted_raylet(address, tmp_path)
        else:
            path.write_text(address)
            subprocess.run(["chown", "65534", path], check=True)
        try:
            async with running_daemon(config=config, environ=environ, isolated=False) as daemon:
                status = await daemon.wait_status("an end", lambda s: s["attempt"]["outcome"])
                await anyio.sleep(2.5)
                tried = [c["source"] for c in status["attempt"]["candidates"] if not c["error"]]
                assert not [source for source in tried if source != "discovery:raylet"]
                if planted == "file":  # an operator has named it, and is told
                    assert status["error"]["type"] == "config_invalid"
                assert heard == []
        finally:
            if planted == "raylet":
                process.kill()
                process.wait()


def _planted_raylet(address: str, folder: Path) -> "subprocess.Popen[bytes]":
    """A process of another user, whose program is called `raylet`, of a cluster at the address."""
    program = folder / "raylet"
    shutil.copy("/usr/bin/bash", program)
    for one in (program, folder, folder.parent):
        one.chmod(0o755)
    command = [
        "setpriv", "--reuid=65534", "--clear-groups",
        str(program), "-c", "read -t 60 <> <(:)", f"--gcs-address={address}", "--node_id=11",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    line = Path(f"/proc/{process.pid}/cmdline")
    until(lambda: line.read_bytes().startswith(bytes(program)), 5, "a planted raylet")
    found = [one for one in raylets() if one.pid == process.pid]
    assert [(one.verified, one.uid) for one in found] == [(True, 65534)]  # its uid alone tells
    return process


_TAKEN_OVER = """
import asyncio, os, sys
from tests.support.fake_head import fake_head
async def serve():
    async with fake_head():
        pass  # what gRPC loads late is loaded: a checkout may be ours alone to read
    os.setgroups([]); os.setuid(65534)
    async with fake_head(token="x", heard=lambda text: print("heard", text, flush=True)) as address:
        print(address, flush=True)
        await asyncio.sleep(60)
asyncio.run(serve())
"""


@pytest.mark.lab
@pytest.mark.parametrize("raylet_lives", [True, False])
async def test_port_that_a_stranger_has_taken_over_is_sent_nothing(
    tmp_path: Path, *, raylet_lives: bool
) -> None:
    """Our own note, and a raylet of ours that lingers, outlive their head; its port does not."""
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    command = [sys.executable, "-c", _TAKEN_OVER]
    config = '[ray]\ndiscovery = ["raylet", "ray_current_cluster"]\n[deadlines]\nlocal_node_s = 1\n'
    environ = {"RAY_TMPDIR": str(tmp_path), "RAY_AUTH_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        address = stranger.stdout.readline().strip()
        note.write_text(address)
        program = tmp_path / "raylet"
        shutil.copy("/usr/bin/bash", program)
        words = ["-c", "read -t 60 <> <(:)", f"--gcs-address={address}", "--node_id=11"]
        lingering = subprocess.Popen([program if raylet_lives else "/usr/bin/bash", *words])
        try:
            async with running_daemon(config=config, environ=environ) as daemon:
                status = await daemon.wait_status("an end", lambda s: s["attempt"]["outcome"])
                tried = status["attempt"]["candidates"]  # other clusters of this machine too
                (ours,) = [one for one in tried if one["address"] == address]
                kind = "raylet" if raylet_lives else "ray_current_cluster"
                assert ours["source"] == f"discovery:{kind}"
                assert ours["error"]["type"] == "not_ray"
                assert "uid 65534" in ours["error"]["message"]
            async with running_daemon(address=address, environ=environ) as daemon:
                await daemon.wait_status("an error", lambda s: s["error"] is not None)
        finally:
            for one in (lingering, stranger):
                one.kill()
                one.wait()
        heard = stranger.stdout.read().split()
        # the configured address alone was shown it: what listens does hear
        assert heard.count(TOKEN) == len(heard) // 3 > 0


@pytest.mark.lab
async def test_own_file_is_believed(tmp_path: Path) -> None:
    """The counterpart: the same file of our own user is used."""
    file = tmp_path / "addresses"
    config = f'[ray]\ndiscovery = ["file"]\naddresses_file = "{file}"\n'
    async with _listening() as (address, heard):
        file.write_text(f"# heads\n{address}  # the first\n")
        async with running_daemon(config=config) as daemon:
            await daemon.wait_status("an error", lambda s: s["error"] is not None)
            assert heard != []
