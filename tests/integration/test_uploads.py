"""Uploads of several users at one daemon: each user's own, over restarts."""

import grp
import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused

pytestmark = pytest.mark.lab

GROUP = "daemon"
ALICE, BOB = 65_531, 65_532
SEND = {"source": {"upload": "a"}, "to": ["nobody"]}

_AS = """
import http.client, os, socket, sys
path, uid, gid, method, target, body = sys.argv[1:]
os.setgroups([int(gid)]); os.setuid(int(uid))
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
web = Unix("castrayd")
web.request(method, target, body)
answer = web.getresponse()
print(answer.status, answer.read().decode())
"""


async def _as(daemon: Daemon, uid: int, method: str, target: str, body: Any) -> tuple[int, Any]:
    """Make a request as another user, one who may write."""
    text = body if isinstance(body, str) else json.dumps(body)
    who = [str(daemon.socket), str(uid), str(grp.getgrnam(GROUP).gr_gid)]
    done = await anyio.run_process([sys.executable, "-c", _AS, *who, method, target, text])
    code, _, document = done.stdout.decode().partition(" ")
    return int(code), json.loads(document)


async def test_upload_is_its_users_own() -> None:
    """Another user who may write neither replaces nor sends it; its owner does, and root."""
    config = f'[control]\nwrite_groups = ["{GROUP}"]\n'
    async with refused() as address, running_daemon(address=address, config=config) as daemon:
        daemon.folder.chmod(0o755)
        code, _ = await _as(daemon, ALICE, "PUT", "/api/uploads/a", "alice's")
        assert code == 201
        await daemon.stop()
        daemon.launch()
        await daemon.answers()

        code, answer = await _as(daemon, BOB, "PUT", "/api/uploads/a", "x")
        assert (code, answer["error"]["type"]) == (403, "forbidden")
        code, answer = await _as(daemon, BOB, "POST", "/api/transfers", SEND)
        assert (code, answer["error"]["type"]) == (403, "forbidden")
        assert (daemon.folder / "state" / "uploads" / "a").read_text() == "alice's"
        assert (await daemon.get("/api/transfers"))["transfers"] == []

        code, accepted = await _as(daemon, ALICE, "POST", "/api/transfers", SEND)
        assert (code, accepted["state"]) == (202, "queued")
        assert (await daemon.ask("POST", "/api/transfers", SEND))[0] == 202
        code, answer = await _as(daemon, ALICE, "DELETE", "/api/uploads/a", "")
        assert (code, answer["error"]["type"]) == (409, "conflict")
        await daemon.ask("DELETE", f"/api/transfers/{accepted['id']}")
        again = f"/api/transfers/{accepted['id']}/retry"
        assert (await _as(daemon, BOB, "POST", again, {}))[0] == 403
        assert (await _as(daemon, ALICE, "POST", again, {}))[0] == 202
        assert (await _as(daemon, ALICE, "PUT", "/api/uploads/a", "anew"))[0] == 409

        for one in (await daemon.get("/api/transfers"))["transfers"]:
            await daemon.ask("DELETE", f"/api/transfers/{one['id']}")
        assert (await _as(daemon, ALICE, "PUT", "/api/uploads/a", "anew"))[0] == 201
        code, answer = await _as(daemon, BOB, "DELETE", "/api/uploads/a", "")
        assert (code, answer["error"]["type"]) == (403, "forbidden")
        assert (await _as(daemon, ALICE, "DELETE", "/api/uploads/a", ""))[0] == 200
        assert (await daemon.ask("DELETE", "/api/uploads/a"))[0] == 404
        assert list((daemon.folder / "state" / "uploads").iterdir()) == []


async def test_castrayctl_leaves_no_copy_behind(tmp_path: Path) -> None:
    """Neither of what was cancelled, after a restart too, nor of what was refused."""
    (tmp_path / "file").write_bytes(b"x" * 1000)

    async def send(daemon: Daemon, to: str) -> tuple[int, Any]:
        command = [sys.executable, "-c", "from castrayd.cli.castrayctl import main; main()"]
        asked = ["--socket", str(daemon.socket), "--json", "file", "send", "--detach"]
        done = await anyio.run_process(
            [*command, *asked, str(tmp_path / "file"), "--to", to], check=False
        )
        return done.returncode, json.loads(done.stdout or "null")

    async with refused() as address, running_daemon(address=address) as daemon:
        there = daemon.folder / "state" / "uploads"
        assert (await send(daemon, "all"))[0] == 1  # who that is only the cluster can tell
        assert list(there.iterdir()) == []
        code, sent = await send(daemon, "nobody")
        assert (code, [path.name for path in there.iterdir()]) == (0, [sent["source"]["upload"]])
        await daemon.stop()
        daemon.launch()
        await daemon.answers()
        await daemon.ask("DELETE", f"/api/transfers/{sent['id']}")
        with anyio.fail_after(20):
            while list(there.iterdir()):
                await anyio.sleep(0.1)
