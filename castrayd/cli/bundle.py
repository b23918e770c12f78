"""The archive that `castrayctl doctor --bundle` writes for a bug report: documents, and no secret.

Each member is a document of the API, made without the token and without the values of
`ray.env_vars`. What a session or a peer has said may repeat a token, so it is looked for once
more, which is the second line only: castrayctl may not know the daemon's token. Imported by
`doctor` alone.
"""

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from castrayd import __version__
from castrayd.cli.client import ANSWER_S, ApiRefusedError, Client, NoDaemonError

__all__ = ("pack", "read_all")

FOLDER: Final = "castray-bundle"
_ASKED: Final[Mapping[str, Callable[[Client], Any]]] = {
    "status": lambda client: client.get("/api/status"),
    "attempts": lambda client: client.get("/api/attempts?limit=1000"),
    "version": lambda client: client.get("/api/version"),
    "events": lambda client: list(client.stream("/api/events?since=0", monotonic() + ANSWER_S)),
}


def read_all(client: Client, report: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what the daemon tells beside the report; without one, what the report knows."""
    members: dict[str, Any] = {"settings": report["settings"]}
    missing = {}
    for name, ask in _ASKED.items():
        try:  # one that fails takes no other with it
            members[name] = ask(client)
        except (NoDaemonError, ApiRefusedError, TimeoutError) as error:
            missing[name] = f"no answer: {error}"
    if missing:
        members["daemon"] = missing
    versions = {"doctor": report["versions"], "daemon": members.pop("version", None)}
    members["versions"] = {"castrayctl": __version__, **versions}
    return members


def pack(path: str, members: Mapping[str, Any], token: str | None) -> None:
    """Write a .tar.gz that its owner alone may read, without `token`.

    Raises OSError, also where there is such a file already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for name, document in members.items():
                _add(archive, name, _text(document, token))
    except BaseException:  # Ctrl-C too: half an archive is none
        os.unlink(path)  # noqa: PTH108
        raise


def _text(document: object, token: str | None) -> str:
    shown = _without(document, token) if token else document
    return json.dumps(shown, ensure_ascii=False, indent=1)


def _without(document: object, token: str) -> object:
    match document:
        case str():
            return document.replace(token, "(token)")
        case Mapping():
            return {key: _without(value, token) for key, value in document.items()}
        case list():
            return [_without(value, token) for value in document]
        case _:
            return document


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="replace")
    entry = tarfile.TarInfo(f"{FOLDER}/{name}.json")
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())  # noqa: TID251
    archive.addfile(entry, io.BytesIO(data))
