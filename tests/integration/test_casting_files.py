"""Files between casting nodes on a real cluster of four nodes whose Python has no castrayd."""

import os
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.support.casting import casting, ready
from tests.support.files import MIB, ended, made, sha256_of
from tests.support.ray import RayHead

pytestmark = pytest.mark.ray


async def test_file_goes_to_all_and_is_the_same(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """A node's file, and an upload, arrive whole at three; again it is skipped; lists show it."""
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "4") as daemon:
        one, *others = await ready(daemon, 4)
        digest = made(f"{one['roots']['files']}/big.bin", 100 * MIB + 17)
        body = {"source": {"node": one["name"], "path": "files:big.bin"}, "to": "all"}
        status, accepted = await daemon.ask("POST", "/api/transfers", body)
        assert status == 202
        done = await ended(daemon, accepted["id"])

        assert done["state"] == "done", done
        assert done["sha256"] == digest
        assert done["bytes_total"] == 100 * MIB + 17
        assert len(done["recipients"]) == 3
        for node in others:
            assert sha256_of(f"{node['roots']['files']}/big.bin") == digest
        assert all(part["bytes_verified"] == 100 * MIB + 17 for part in done["recipients"])

        _, again = await daemon.ask("POST", "/api/transfers", body)
        again = await ended(daemon, again["id"])
        assert again["state"] == "done"
        assert all(part["skipped"] and not part["bytes_sent"] for part in again["recipients"])

        (tmp_path / "up").write_bytes(b"from here")
        connector = aiohttp.UnixConnector(str(daemon.socket))
        async with aiohttp.ClientSession("http://castrayd", connector=connector) as web:
            with (tmp_path / "up").open("rb") as file:
                answer = await web.put("/api/uploads/note.txt", data=file)
            assert await answer.json() == {"name": "note.txt", "bytes": 9}
        body = {"source": {"upload": "note.txt"}, "to": [one["name"]], "path": "files:a/b.txt"}
        _, sent = await daemon.ask("POST", "/api/transfers", body)
        sent = await ended(daemon, sent["id"])
        assert sent["state"] == "done", sent
        listing = await daemon.get(f"/api/nodes/{one['name']}/files?path=files:a")
        assert [(f["name"], f["size"]) for f in listing["files"]] == [("b.txt", 9)]
        events = {event["name"] for event in await daemon.events()}
        assert {"castray.transfer.started", "castray.transfer.finished"} <= events
        totals = (await daemon.status())["transfers"]
        assert (totals["active"], totals["completed"], totals["failed"]) == (0, 3, 0)


async def test_what_may_not_be_is_refused(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """No path leads out of a root, one that fails does not fail the others, nothing is written."""
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "3") as daemon:
        one, two, three = await ready(daemon, 3)
        made(f"{one['roots']['files']}/small.bin", 1000)
        os.symlink("/etc", f"{two['roots']['files']}/out")
        source = {"node": one["name"], "path": "files:small.bin"}

        for path in ("files:../x", "files:/etc/x", "files:a/../../x", "files:" + "x" * 300,
                     "files:a\0b", "files:", "nothing"):  # fmt: skip
            status, answer = await daemon.ask(
                "POST", "/api/transfers", {"source": source, "to": "all", "path": path}
            )
            assert status in {400, 403}, path
            assert answer["error"]["type"] in {"bad_request", "path_forbidden"}
        body = {"source": source, "to": "all", "path": "files:out/x"}
        _, sent = await daemon.ask("POST", "/api/transfers", body)
        sent = await ended(daemon, sent["id"])
        assert sent["state"] == "partial"
        errors = {part["recipient"]: part["error"] for part in sent["recipients"]}
        assert errors[two["name"]]["type"] == "path_forbidden"
        assert errors[three["name"]] is None
        _, sent = await daemon.ask(
            "POST", "/api/transfers", {"source": source, "to": "all", "path": "nowhere:x"}
        )
        sent = await ended(daemon, sent["id"])
        assert sent["state"] == "failed"
        assert {part["error"]["type"] for part in sent["recipients"]} == {"path_forbidden"}
        assert not os.path.exists("/etc/x")


async def test_roots_are_read_and_written_apart(
    cluster: RayHead, cluster_python: str, tmp_path: Path
) -> None:
    """From one that may only be read files go out, into one that may only be written they come."""
    library, drop = tmp_path / "library", tmp_path / "drop"
    roots = f'{{library = {{path="{library}"}}, drop = {{path="{drop}", read=false, write=true}}}}'
    for folder in (library, drop):
        folder.mkdir()
    digest = made(f"{library}/book.bin", 3 * MIB + 5)
    made(f"{drop}/secret.bin", 1000)
    async with casting(
        cluster, cluster_python, tmp_path, "--demo-nodes", "2", roots=roots
    ) as daemon:
        one, two = await ready(daemon, 2)
        assert one["roots"] | two["roots"] == {
            "files": two["roots"]["files"], "library": str(library), "drop": str(drop),
        }  # fmt: skip

        async def send(source: str, path: str) -> Any:
            source_of_one = {"node": one["name"], "path": source}
            body = {"source": source_of_one, "to": [two["name"]], "path": path}
            done = await ended(daemon, (await daemon.ask("POST", "/api/transfers", body))[1]["id"])
            error = done["recipients"][0]["error"]
            return done["state"] if error is None else error["type"]

        assert await send("library:book.bin", "files:book.bin") == "done"
        assert await send("library:book.bin", "drop:in/book.bin") == "done"
        assert sha256_of(f"{two['roots']['files']}/book.bin") == digest
        assert sha256_of(f"{drop}/in/book.bin") == digest
        assert await send("library:book.bin", "library:copy.bin") == "path_forbidden"
        assert await send("drop:secret.bin", "files:secret.bin") == "path_forbidden"
        assert os.listdir(library) == ["book.bin"]
        assert os.listdir(two["roots"]["files"]) == ["book.bin"]

        listing = f"/api/nodes/{two['name']}/files?path="
        files = (await daemon.get(f"{listing}library:"))["files"]
        assert [(f["name"], f["size"]) for f in files] == [("book.bin", 3 * MIB + 5)]
        for path in ("drop:", "drop:in"):
            status, answer = await daemon.ask("GET", f"{listing}{path}")
            assert (status, answer["error"]["type"]) == (403, "path_forbidden")


async def test_cancel_and_bandwidth(cluster: RayHead, cluster_python: str, tmp_path: Path) -> None:
    """A limited transfer is slow, shows its speed, and leaves nothing when it is cancelled."""
    async with casting(cluster, cluster_python, tmp_path, "--demo-nodes", "2") as daemon:
        one, two = await ready(daemon, 2)
        made(f"{one['roots']['files']}/slow.bin", 64 * MIB)
        body = {
            "source": {"node": one["name"], "path": "files:slow.bin"},
            "to": [two["name"]],
            "bandwidth_bytes_s": 4 * MIB,
        }
        _, sent = await daemon.ask("POST", "/api/transfers", body)
        await daemon.wait_event(
            "castray.transfer.progress", lambda e: e["bytes_verified"] > 4 * MIB, 30
        )
        running = await daemon.get(f"/api/transfers/{sent['id']}")
        assert running["state"] == "running"
        assert 0.5 * MIB < running["speed_bytes_s"] < 8 * MIB
        assert running["eta_s"] > 1
        status, cancelled = await daemon.ask("DELETE", f"/api/transfers/{sent['id']}")
        assert (status, cancelled["state"]) == (200, "cancelled")
        with anyio.fail_after(20):
            while [n for n in os.listdir(two["roots"]["files"]) if not n.startswith("big")]:
                await anyio.sleep(0.1)
        assert (await daemon.ask("DELETE", f"/api/transfers/{sent['id']}"))[0] == 409
