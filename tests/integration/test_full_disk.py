"""A disk that is full: lines and history are lost, and are said to be; nobody waits or ends."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.daemon import STOP_S, Daemon, running_daemon
from tests.support.log_schema import check_lines
from tests.support.peers import refused
from tests.support.processes import until

pytestmark = pytest.mark.lab

CONFIG = "[backoff]\nmax_s = 1\n"
ATTEMPT = "castray.connection.attempt"
IN_TIME_S = 2.0


@contextlib.contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so few bytes, for the length of a block."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(disk: Path) -> Path:
    """Leave not a byte; returns what to remove to make room again."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


async def _answers_soon(daemon: Daemon) -> None:
    """Check that it answers at once, and goes on trying."""
    number = (await daemon.status())["attempt"]["number"]
    await daemon.wait_status("attempts", lambda s: s["attempt"]["number"] > number + 1, 15)
    for path in ("/api/status", "/api/attempts", "/api/health/live"):
        began_s = time.monotonic()
        await daemon.get(path)
        assert time.monotonic() - began_s < IN_TIME_S


def _documents(text: str) -> list[dict[str, Any]]:
    """The whole lines: the full disk has cut one here and there."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


async def test_full_disk_below_the_log_ends_nothing(tmp_path: Path) -> None:
    """It works on; when there is room again the log goes on and says how many are missing."""
    with _small_disk(tmp_path / "disk", "64k") as disk:
        async with (
            refused() as address,
            running_daemon(
                "--log-format=json", address=address, config=CONFIG, launch=False
            ) as daemon,
        ):
            daemon.log_path = disk / "log"
            daemon.launch()
            await daemon.answers()
            await daemon.wait_status("an attempt", lambda s: s["attempt"])
            ballast = _fill(disk)
            await _answers_soon(daemon)
            ballast.unlink()
            until(lambda: "lines were dropped" in daemon.log_text(), 10.0, "lines again")
            _fill(disk)
            began_s = time.monotonic()
            await daemon.stop()
            assert time.monotonic() - began_s < STOP_S / 2
        lines = _documents((disk / "log").read_text())

    assert [line for line in lines if "lines were dropped" in line["message"]]
    check_lines(lines)


async def test_full_disk_below_the_state_ends_nothing(tmp_path: Path) -> None:
    """Events are lost to the history alone, which is told once; a wish is refused, not lost."""
    with _small_disk(tmp_path / "disk", "1m") as disk:
        async with (
            refused() as address,
            running_daemon(f"--state-dir={disk}", address=address, config=CONFIG) as daemon,
        ):
            await daemon.wait_event(ATTEMPT, lambda _: True)
            ballast = _fill(disk)
            told = await daemon.wait_log(
                "that history is lost", lambda line: "history" in line["message"], 30.0
            )
            await _answers_soon(daemon)
            code, reply = await daemon.post("/api/pause")
            status = await daemon.status()
            ballast.unlink()
            assert (await daemon.post("/api/pause"))[0] == 200
            await anyio.sleep(0.5)
            await daemon.stop()
            daemon.launch()
            await daemon.answers()
            again = await daemon.status()
            events = await daemon.events(ATTEMPT)

    assert told["level"] == "warning"
    assert (code, reply["error"]["type"], status["desired"]) == (503, "busy", "up")
    assert "daemon.state_dir" in reply["error"]["hint"]
    assert again["desired"] == "paused"
    assert again["daemon"]["id"] == status["daemon"]["id"]
    assert events


async def test_start_on_a_full_disk_is_refused_in_words(tmp_path: Path) -> None:
    """There is no ledger without a page for it: exit 74, the folder named, and no stack."""
    with _small_disk(tmp_path / "disk", "16k") as disk:
        _fill(disk)
        async with running_daemon(f"--state-dir={disk}", launch=False) as daemon:
            daemon.launch()
            assert await daemon.exit_code() == 74
            assert "daemon.state_dir" in daemon.log_text()
            assert "Traceback" not in daemon.log_text()
            daemon.forget()
