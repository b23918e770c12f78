"""Uploads of several users at one daemon: each user's own, over restarts."""

import grp
import json
import sys
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
        await daemon.ask("DELETE", f"/api/transfers/{accepted['id']}")
        again = f"/api/transfers/{accepted['id']}/retry"
        assert (await _as(daemon, BOB, "POST", again, {}))[0] == 403
        assert (await _as(daemon, ALICE, "POST", again, {}))[0] == 202
        assert (await _as(daemon, ALICE, "PUT", "/api/uploads/a", "anew"))[0] == 201
