"""The openapi.json that a daemon serves is what its routes do."""

import json
from typing import Any

import aiohttp
import jsonschema_rs
import pytest

from castrayd.control.openapi import document
from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


def _described() -> dict[str, set[str]]:
    return {path: {m.upper() for m in item} for path, item in document()["paths"].items()}


async def test_served_document_is_the_built_one() -> None:
    """Who reads it from the socket reads what the tests of its making compare with the router."""
    async with refused() as address, running_daemon(address=address) as daemon:
        built = json.loads(json.dumps(document()))

        assert built == await daemon.get("/api/openapi.json")


async def test_every_path_takes_its_methods_and_no_others() -> None:
    """What is described is there; any other method is 405, and Allow names the described ones."""
    async with refused() as address, running_daemon(address=address) as daemon:
        for path, methods in _described().items():
            target = path.replace("{id}", "none").replace("{name}", "none")
            for method in METHODS:
                code, allow = await _allow(daemon, method, target)
                if method in methods:
                    assert code != 405, (method, path)
                else:
                    assert (405, methods) == (code, allow), (method, path)


async def _allow(daemon: Daemon, method: str, target: str) -> tuple[int, set[str]]:
    """Ask with a body that no write takes; returns status and what Allow says."""
    connector = aiohttp.UnixConnector(str(daemon.socket))
    async with (
        aiohttp.ClientSession("http://castrayd", connector=connector) as web,
        web.request(method, target, data=b"[]") as response,
    ):
        return response.status, set(filter(None, response.headers.get("Allow", "").split(", ")))


def _conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> None:
    whole = {**schema, "components": root["components"]}
    jsonschema_rs.validator_for(whole).validate(value)


@pytest.mark.parametrize(
    "path",
    ["/api/status", "/api/health/live", "/api/health/ready", "/api/attempts", "/api/version",
     "/api/log-level", "/api/cluster/nodes", "/api/doctor"],
)  # fmt: skip
async def test_reply_is_as_described(path: str) -> None:
    """The document that comes conforms to the schema given for its status."""
    async with refused() as address, running_daemon(address=address) as daemon:
        await daemon.wait_status("an attempt", lambda s: s["error"] is not None)
        code, reply = await daemon.ask("GET", path)
        root = document()
        answers = root["paths"][path]["get"]["responses"]

        assert str(code) in answers
        _conforms(reply, answers[str(code)]["content"]["application/json"]["schema"], root)
