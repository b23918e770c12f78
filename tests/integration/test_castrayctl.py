"""castrayctl against a real daemon: what it prints where, and how it exits."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused

MAIN = "from castrayd.cli.castrayctl import main; main()"
STRANGER = (
    "from castrayd.cli.castrayctl import main; import os;"
    " os.setgroups([]); os.setgid(65534); os.setuid(65534); main()"
)
"""Becomes somebody else when it is loaded: the checkout may be ours alone to read."""
Done = tuple[int, str, str]
"""Exit code, standard output, standard error."""


def _command(socket: Path | str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", MAIN, "--socket", str(socket), *arguments]


def _environ(**extra: str) -> dict[str, str]:
    ours = ("CASTRAYD_", "RAY_", "NO_COLOR", "PYTHONIOENCODING")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "PYTHONPATH": os.getcwd(), "TERM": "xterm", **extra}


async def _run(command: list[str], **options: Any) -> Done:
    options = {"stdout": subprocess.PIPE, "env": _environ(), **options}
    with anyio.fail_after(20):
        done = await anyio.run_process(command, check=False, **options)
    out, err = (text.decode() if text else "" for text in (done.stdout, done.stderr))
    assert "Traceback" not in err, err
    return done.returncode, out, err


async def _ctl(daemon: Daemon, *arguments: str) -> Done:
    return await _run(_command(daemon.socket, *arguments))


async def _shell(daemon: Daemon, script: str, *arguments: str) -> Done:
    """Run a script for bash in which "$@" is castrayctl."""
    return await _run(["bash", "-c", script, "sh", *_command(daemon.socket, *arguments)])


@asynccontextmanager
async def _daemon() -> AsyncIterator[Daemon]:
    """A daemon that has failed to attach, and makes no retry for as long as a test takes."""
    config = "[backoff]\ngap_s = 50"
    async with refused() as address, running_daemon(address=address, config=config) as daemon:
        await daemon.wait_status("an attempt", lambda s: s["error"] is not None)
        yield daemon


def _shape(document: Any) -> Any:
    """The document's keys, all the way down, without the values."""
    if isinstance(document, dict):
        return {key: _shape(value) for key, value in document.items()}
    return [_shape(item) for item in document[:1]] if isinstance(document, list) else None


# --- every command, as text and as JSON ---

STATUS = ("GET", "/api/status")
COMMANDS = [
    (("status",), STATUS, "disconnected for "),
    (("attempts",), ("GET", "/api/attempts"), "id  "),
    (("attempts", "ID"), ("GET", "/api/attempts/ID"), "ID failure tcp_refused after "),
    (("log-level",), ("GET", "/api/log-level"), "debug"),
    (("log-level", "debug"), ("PUT", "/api/log-level"), "debug"),
    (("pause", "--reason", "a b"), ("POST", "/api/pause"), "desired: paused"),
    (("resume", "--reason", "a b"), ("POST", "/api/resume"), "desired: up"),
    (("reload",), ("POST", "/api/reload"), "changed: nothing"),
    (("reconnect",), ("POST", "/api/reconnect"), "began attempt "),
    (("reconnect", "--wait"), ("GET", "/api/attempts/ID"), " failure tcp_refused after "),
    (("version",), ("GET", "/api/version"), "castrayd: "),
    (("cluster", "nodes"), ("GET", "/api/cluster/nodes"), ""),
    (("wait", "--for", "disconnected"), STATUS, ""),
]
FAILING = {("reconnect", "--wait"), ("cluster", "nodes")}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "request_", "part"), COMMANDS, ids=[" ".join(row[0]) for row in COMMANDS]
)
async def test_command_shows_what_the_api_says(
    arguments: tuple[str, ...], request_: tuple[str, str], part: str, as_json: bool
) -> None:
    """Text for people, or the API's own document; the exit code is the same, no escape byte."""
    async with _daemon() as daemon:
        first = (await daemon.status())["attempt"]["id"]
        given = [first if one == "ID" else one for one in arguments]
        code, out, err = await _ctl(daemon, *(["--json"] if as_json else []), *given)
        path = request_[1].replace("ID", first)
        body = {"GET": None, "POST": {}, "PUT": {"level": "debug"}}[request_[0]]
        answered, document = await daemon.ask(request_[0], path, body)

        assert (1 if arguments in FAILING else 0) == code, err
        assert "\x1b" not in out + err
        if answered >= 400:
            assert out == ""
            assert "castrayctl: not_connected: no cluster is attached\n  → " in err
        elif as_json:
            assert _shape(document) == _shape(json.loads(out))
            assert out.count("\n") == 1
        else:
            assert part.replace("ID", first) in out
            assert bool(out) is bool(part)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
async def test_events_are_a_line_each(as_json: bool) -> None:
    """What has happened so far, in order; as JSON exactly what the stream says."""
    async with _daemon() as daemon:
        code, out, _ = await _ctl(daemon, *(["--json"] if as_json else []), "events")
        snapshot, *lines = out.splitlines()
        events = (await daemon.events())[: len(lines)]
        one = await _ctl(daemon, "events", "--types", "castray.connection.attempt", "--since", "1")

        assert code == 0
        assert len(lines) >= 3
        assert "\x1b" not in out
        assert "snapshot" in snapshot
        assert "connection.attempt" in one[1].splitlines()[1]
        if as_json:
            assert events == [json.loads(line) for line in lines]
        else:
            names = [event["name"].removeprefix("castray.") for event in events]
            assert names == [line.split()[2] for line in lines]


async def test_reasons_arrive() -> None:
    """What is given as a reason is shown for as long as it lasts."""
    async with _daemon() as daemon:
        await _ctl(daemon, "pause", "--reason", "kernel upgrade")
        _, out, _ = await _ctl(daemon, "status")
        code, _, err = await _ctl(daemon, "reconnect", "--wait")

        assert "desired    paused by " in out
        assert ": kernel upgrade\n" in out
        assert code == 1
        assert "castrayctl: paused: castrayd is paused\n  → Resume it: castrayctl resume" in err


# --- exit codes ---


async def test_exit_code_tells_how_it_went() -> None:
    """0 done, 1 failed, 4 not in the state asked for."""
    async with _daemon() as daemon:
        for arguments, code in (
            (("status", "--expect", "disconnected"), 0),
            (("status", "--expect", "connected"), 4),
            (("wait", "--for", "disconnected", "--timeout", "0"), 0),
            (("wait", "--for", "disconnected", "--timeout", "inf"), 0),
            (("wait", "--for", "connected", "--timeout", "0.2"), 4),
            (("reconnect", "--address", "nope"), 1),
            (("attempts", "../status"), 1),
        ):
            assert code == (await _ctl(daemon, *arguments))[0], arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nope",), ("nope",), ("status", "--nope"), ("status", "--expect", "nope"),
        ("wait",), ("wait", "--for", "nope"), ("wait", "--for", "connected", "--timeout", "nan"),
        ("wait", "--for", "connected", "--timeout", "-1"), ("reconnect", "--timeout", "inf"),
        ("attempts", "--limit", "0"), ("events", "--since", "-1"), ("log-level", "loud"),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_wrong_usage_is_refused_unasked(arguments: tuple[str, ...]) -> None:
    """Exit 2, although no daemon is there."""
    code, out, err = await _run(_command("/nonexistent/s", *arguments))

    assert (code, out) == (2, "")
    assert "Error: " in err


@pytest.mark.parametrize("arguments", [("status",), ("--json", "pause"), ("events", "--follow")])
async def test_no_daemon_is_said_with_what_to_do(arguments: tuple[str, ...]) -> None:
    """Exit 3; but `wait` waits for one."""
    code, out, err = await _run(_command("/nonexistent/s", *arguments))
    wait = ("wait", "--for", "connected", "--timeout", "0.1")

    assert (code, out) == (3, "")
    assert "castrayctl: no daemon at '/nonexistent/s'" in err
    assert "castrayd run" in err
    assert (await _run(_command("/nonexistent/s", *wait)))[0] == 4


@pytest.mark.lab
@pytest.mark.parametrize("mode", [0o700, 0o711], ids=["by the folder", "by the daemon"])
async def test_stranger_is_forbidden(mode: int) -> None:
    """Exit 5, whoever refuses: the file system or the daemon."""
    async with _daemon() as daemon:
        daemon.folder.chmod(mode)
        for arguments in (("status",), ("pause",), ("events", "--follow")):
            command = [sys.executable, "-c", STRANGER, "--socket", str(daemon.socket)]
            code, out, err = await _run([*command, *arguments])

            assert (code, out) == (5, ""), err
            assert "castrayctl: forbidden: " in err
        assert (await daemon.status())["desired"] == "up"


# --- what it writes to ---


async def _on_terminal(daemon: Daemon, *arguments: str, **environ: str) -> str:
    master, slave = pty.openpty()
    try:
        command = _command(daemon.socket, *arguments)
        done = await _run(command, stdout=slave, env=_environ(**environ))
    finally:
        os.close(slave)
    shown = b""
    with open(master, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while part := terminal.read(4096):  # EIO is Linux's end of a terminal
            shown += part
    assert done[0] == 0
    return shown.decode()


async def test_terminal_gets_colour_unless_it_wants_none() -> None:
    """https://no-color.org, and a terminal that has none; JSON has none anywhere."""
    async with _daemon() as daemon:
        assert "\x1b[31;1mdisconnected\x1b[0m" in await _on_terminal(daemon, "status")
        assert "\x1b[31mfailure\x1b[0m" in await _on_terminal(daemon, "attempts")
        assert "\x1b" not in await _on_terminal(daemon, "status", NO_COLOR="1")
        assert "\x1b" not in await _on_terminal(daemon, "status", TERM="dumb")
        assert "\x1b" not in await _on_terminal(daemon, "--json", "status")


async def test_output_that_nobody_takes_is_no_crash() -> None:
    """A closed output is no fault, a full one is told; no traceback of either."""
    async with _daemon() as daemon:
        for command in ("status", "events", "version"):
            assert await _shell(daemon, '"$@" >&-', command) == (0, "", "")
            code, _, err = await _shell(daemon, '"$@" >/dev/full', command)
            assert (code, err) == (1, "castrayctl: cannot write: No space left on device\n")
        assert (await _shell(daemon, '"$@" >&- 2>&-', "status", "--expect", "connected"))[0] == 4


async def test_reader_that_leaves_early_is_no_crash() -> None:
    """`castrayctl events | head -1`, also where more comes after head has gone."""
    async with _daemon() as daemon:
        script = 'set -o pipefail; "$@" | head -1'
        code, out, err = await _shell(daemon, script, "events")
        assert (code, out.count("\n"), err) == (0, 1, "")

        script = 'set -o pipefail; "$@" | (head -1; exec <&-; sleep 0.2); echo "$?"'
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stir, daemon)
            code, out, err = await _shell(daemon, script, "events", "--follow")
            tasks.cancel_scope.cancel()
        assert (out.splitlines()[-1], err) == ("0", "")


async def _stir(daemon: Daemon) -> None:
    """Make something happen, again and again."""
    while True:
        await daemon.post("/api/pause")
        await daemon.post("/api/resume")
        await anyio.sleep(0.1)


# --- following ---


async def test_following_shows_what_happens_and_ends_with_the_daemon() -> None:
    """A line at once when something happens; exit 3 when the daemon has ended."""
    async with _daemon() as daemon:
        command = _command(daemon.socket, "events", "-f", "--types", "castray.state.changed")
        with tempfile.TemporaryFile() as err, anyio.fail_after(20):
            async with await anyio.open_process(command, stderr=err, env=_environ()) as process:
                assert process.stdout is not None
                seen = ""
                async for data in process.stdout:
                    begun, seen = bool(seen), seen + data.decode()
                    if not begun:
                        await daemon.post("/api/reconnect")
                    if "(manual)" in seen and daemon.process.poll() is None:
                        daemon.process.terminate()
            err.seek(0)

            assert await daemon.exit_code() == 0
            assert "disconnected -> discovering (manual)" in seen
            assert (process.returncode, err.read()) == (3, b"castrayctl: the daemon has ended\n")


async def test_explain_needs_no_daemon() -> None:
    """A class is explained, all are listed, and a slip of the pen is corrected with exit 1."""
    for words, code, says in (
        (["explain"], 0, "client_server_unavailable"),
        (["explain", "tcp_refused"], 0, "ray start --head"),
        (["explain", "tcp_refuse"], 1, "did you mean tcp_refused?"),
    ):
        found, out, err = await _run(_command("/nonexistent", *words))
        assert found == code
        assert says in out + err
