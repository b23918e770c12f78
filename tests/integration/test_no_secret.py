"""A planted token is hunted for in everything that castrayd says, shows, keeps and starts."""

import base64
import secrets
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.fake_head import fake_head
from tests.support.processes import until
from tests.support.ray import ray_head

CTL = "from castrayd.cli.castrayctl import main; main()"
SHOWN = ("status", "attempts?limit=100", "doctor", "openapi.json", "nowhere")
ASKED = (("status",), ("attempts",), ("--json", "status"), ("doctor",))


def _blabbing(folder: Path) -> Path:
    """An interpreter that tells all that it was given, and ends."""
    script = folder / "python"
    script.write_text('#!/bin/sh\nenv\nenv >&2\necho "token: $RAY_AUTH_TOKEN" >&2\nexit 3\n')
    script.chmod(0o755)
    return script


async def _ctl(daemon: Daemon, *arguments: str) -> str:
    """Run castrayctl, which was not given the daemon's token; returns all that it says.

    Knowing it, a bundle would take it out by itself, whatever the daemon has told.
    """
    command = [sys.executable, "-c", CTL, f"--socket={daemon.socket}", *arguments]
    environ = {key: value for key, value in daemon._environ.items() if key != "RAY_AUTH_TOKEN"}
    done = await anyio.run_process(command, check=False, env=environ)
    return done.stdout.decode() + done.stderr.decode()


async def _everything(daemon: Daemon) -> dict[str, str]:
    """All that a person, a log store, a bug report or another user of the host gets to see."""
    found = {path: str(await daemon.ask("GET", f"/api/{path}")) for path in SHOWN}
    found["events"] = str(await daemon.events())
    for arguments in ASKED:
        found[f"castrayctl {' '.join(arguments)}"] = await _ctl(daemon, *arguments)
    bundle = daemon.folder / "bundle.tar.gz"
    await _ctl(daemon, "doctor", f"--bundle={bundle}")
    with tarfile.open(bundle) as archive:
        for member in archive:
            held = archive.extractfile(member)
            found[member.name] = held.read().decode() if held else ""
    for pid in (daemon.pid, *daemon.children()):
        found[f"command of {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    return found


def _kept(daemon: Daemon) -> dict[str, str]:
    """What is on the disk, the log of whatever format included."""
    files = [daemon.log_path, *(daemon.folder / "state").iterdir()]
    return {str(file): file.read_bytes().decode(errors="replace") for file in files}


def _traces(token: str, texts: dict[str, str]) -> Iterator[str]:
    """Name what holds the token, a good part of it, or its usual disguise."""
    signs = (token[:16], token[-16:], base64.b64encode(token.encode()).decode()[:20])
    yield from (name for name, text in texts.items() if any(sign in text for sign in signs))


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
async def test_token_is_nowhere_to_be_read(
    tmp_path: Path, form: str, place: str, right: bool
) -> None:
    """Accepted or refused, and although each session tells all that it knows, and a head too."""
    token, file = secrets.token_hex(24), tmp_path / "token"
    file.write_text(token)
    config = f'[session]\npython = "{_blabbing(tmp_path)}"\n[deadlines]\nlocal_node_s = 0.2\n'
    if place == "file":
        config += f'[ray]\ntoken_file = "{file}"\n'
    environ = {"RAY_AUTH_TOKEN": token} if place == "environment" else {}
    async with (
        fake_head(token=token if right else "another", echoes=True) as address,
        running_daemon(
            f"--log-format={form}", address=address, config=config, environ=environ
        ) as daemon,
    ):
        status = await daemon.wait_status("a failure", lambda s: s["error"] is not None)
        assert status["error"]["type"] == ("no_local_node" if right else "auth_rejected")
        if right:  # one is started to stand by, and has its say
            until(lambda: "RAY_AUTH_TOKEN" in daemon.log_text(), 10.0, "a session's words")
        texts = await _everything(daemon)
        await daemon.stop()
        texts |= _kept(daemon)

    assert len(texts) > 15
    assert list(_traces(token, texts)) == []
    assert "[redacted]" in texts["castray-bundle/events.json"]  # there was something to hide


@pytest.mark.ray
async def test_token_of_an_attached_session_is_nowhere_to_be_read() -> None:
    """Nor is it while a real session holds it."""
    token = secrets.token_hex(24)
    with ray_head(token=token) as head:
        environ = {"RAY_AUTH_TOKEN": token}
        async with running_daemon(address=head.address, environ=environ) as daemon:
            await daemon.wait_state("connected", 30)
            texts = await _everything(daemon)
            assert any("castrayd.driver" in text for text in texts.values())
            await daemon.stop()
            texts |= _kept(daemon)

    assert list(_traces(token, texts)) == []
