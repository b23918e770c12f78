"""What surrounds the daemon may be odd: files, bytes, folders that go. Nothing of it ends it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.support.daemon import running_daemon
from tests.support.peers import refused


@pytest.mark.parametrize(
    "token", [b"a\0b", b"\xff\xfe", b"x" * 100_000, None], ids=["NUL", "bytes", "huge", "folder"]
)
async def test_token_file_that_holds_no_token_ends_nothing(
    tmp_path: Path, token: bytes | None
) -> None:
    """The attempt fails where it would without it, and no descriptor is left open."""
    file = tmp_path / "token"
    file.mkdir() if token is None else file.write_bytes(token)
    config = f'[ray]\ntoken_file = "{file}"\n[backoff]\nmax_s = 1\n'
    async with refused() as address, running_daemon(address=address, config=config) as daemon:
        await daemon.wait_status("attempts", lambda s: s["attempt"] and s["attempt"]["number"] > 3)
        with anyio.fail_after(5):  # it may be reading it this moment
            while str(file) in _held(daemon.pid):
                await anyio.sleep(0.05)
        assert (await daemon.status())["error"]["type"] == "tcp_refused"


def _held(pid: int) -> list[str]:
    """Return what its descriptors lead to; one may be closed while we look."""
    held = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.append(str(one.readlink()))
    return held


async def test_interpreter_with_a_nul_is_a_fault_of_the_session() -> None:
    """A path that the system cannot take is told, and the daemon goes on."""
    config = '[session]\npython = "/bin/\\u0000x"\n'
    async with refused() as address, running_daemon(address=address, config=config) as daemon:
        await daemon.wait_status("an error", lambda s: s["error"] is not None)
        await anyio.sleep(0.5)
        assert (await daemon.get("/api/health/live")) == {"status": "ok"}


async def test_bytes_that_are_no_text_are_an_invalid_address() -> None:
    """The environment holds bytes; a bad RAY_ADDRESS is a fault of the running daemon."""
    environ = {"RAY_ADDRESS": os.fsdecode(b"h\xff:6379")}
    async with running_daemon(environ=environ) as daemon:
        status = await daemon.wait_status("an error", lambda s: s["error"] is not None)
        assert status["error"]["type"] == "address_invalid"


@pytest.mark.parametrize("fault", ["deep", "working folder"])
async def test_reload_that_cannot_be_is_refused(tmp_path: Path, fault: str) -> None:
    """A file nested beyond reason, or a start folder that is gone: SIGHUP ends nothing."""
    async with refused() as address, running_daemon(address=address, launch=False) as daemon:
        folder = tmp_path / "here"
        folder.mkdir()
        daemon.launch("env", f"--chdir={folder}")
        await daemon.answers()
        if fault == "deep":
            (daemon.folder / "castrayd.toml").write_text("x = " + "[" * 20_000)
        else:
            folder.rmdir()
        daemon.signal(signal.SIGHUP)
        told = await daemon.wait_event("castray.config.reloaded", lambda _: True)
        assert (told["error"] is not None) == (fault == "deep")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--state-dir=/proc/nope"], 78),
        (["--state-dir=/etc/passwd"], 78),
        ([os.fsdecode(b"--namespace=n\xff")], 78),
    ],
)
def test_start_that_cannot_be_is_told(arguments: list[str], code: int, tmp_path: Path) -> None:
    """A folder that cannot be made, a name that is no text: exit 78 and no stack."""
    command = [sys.executable, "-m", "castrayd", "run", f"--socket={tmp_path}/s", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)

    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert done.stderr


async def test_two_daemons_do_not_share_one_identity() -> None:
    """Another socket is not enough: the state folder is held too, and is not written to."""
    async with refused() as address, running_daemon(address=address) as daemon:
        before = (await daemon.status())["daemon"]["id"]
        command = [
            sys.executable, "-m", "castrayd", "run", f"--socket={daemon.folder}/other",
            f"--state-dir={daemon.folder}/state",
        ]  # fmt: skip
        second = subprocess.run(command, capture_output=True, timeout=20, check=False)

        assert second.returncode == 73
        assert (await daemon.status())["daemon"]["id"] == before


async def test_hundred_wishes_at_once_are_each_granted() -> None:
    """Pause and resume in any order: no 500, what is stored is what was asked last, none leaks."""
    async with refused() as address, running_daemon(address=address) as daemon:
        codes: list[int] = []

        async def wish(verb: str) -> None:
            codes.append((await daemon.post(f"/api/{verb}"))[0])

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(wish, "pause" if number % 2 else "resume")
        assert set(codes) == {200}
        await daemon.post("/api/pause")
        with anyio.fail_after(15):
            while daemon.children():
                await anyio.sleep(0.1)
        await daemon.stop()
        daemon.launch()
        await daemon.answers()
        assert (await daemon.status())["desired"] == "paused"


async def test_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """A full pipe on standard error: it answers, and obeys SIGTERM."""
    async with refused() as address, running_daemon(address=address, launch=False) as daemon:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            daemon.launch("sh", "-c", f'exec "$@" 2>{pipe}', "sh")
            await daemon.answers()
            for level in ["debug", "info"] * 300:
                await daemon.ask("PUT", "/api/log-level", {"level": level})
            assert (await daemon.get("/api/health/live")) == {"status": "ok"}
            daemon.signal(signal.SIGTERM)
            assert await daemon.exit_code(6.0) == 0
        finally:
            os.close(reader)
