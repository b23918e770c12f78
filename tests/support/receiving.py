"""A casting node's receiving side for unit tests, which can be started again."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from castrayd.driver.caster.incoming import Incoming
from castrayd.driver.caster.roots import Roots

__all__ = ("CHUNK", "DATA", "Node", "chunks_of", "receiving", "sha256", "type_of")

CHUNK = 1000
DATA = os.urandom(2 * CHUNK + 345)


class Node:
    """One casting node's receiving side, which can be started again."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir()
        self._state = folder / "state"
        self._state.mkdir()
        self.generation = ""
        self.start()

    def start(self, reserve: int = 0) -> None:
        roots = Roots({"files": {"path": str(self.files), "write": True}})
        self.incoming = Incoming(roots, str(self._state), reserve)

    def restart(self, reserve: int = 0) -> None:
        self.incoming.close()
        self.start(reserve)

    def begin(self, transfer: str = "t1", path: str = "files:a.bin", **more: Any) -> dict[str, Any]:
        spec = {"id": transfer, "path": path, "size": len(DATA), "chunk_bytes": CHUNK}
        answer = self.incoming.begin({**spec, "if_exists": "refuse", **more})
        self.generation = answer.pop("generation", self.generation)
        return answer

    def take(self, *indices: int, transfer: str = "t1", data: bytes = DATA) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for index in indices:
            chunk = data[index * CHUNK : (index + 1) * CHUNK]
            answer = self.give(index, sha256(chunk), memoryview(chunk), transfer=transfer)
        return answer

    def give(
        self, index: int, sha256: str, data: Any, again: bool = False, transfer: str = "t1"
    ) -> dict[str, Any]:
        chunk = {"index": index, "sha256": sha256, "generation": self.generation}
        return self.incoming.take(transfer, chunk, data, again)

    def finish(self, transfer: str = "t1", data: bytes = DATA) -> dict[str, Any]:
        return self.incoming.finish(transfer, sha256(data), chunks_of(data))

    def receive(self, **more: Any) -> dict[str, Any]:
        answer = self.begin(**more)
        assert answer == {"have": []}, answer
        self.take(0, 1, 2, transfer=more.get("transfer", "t1"))
        return self.finish(more.get("transfer", "t1"))

    def open_files(self) -> list[str]:
        """The files of this process that are in its folders."""
        found = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return [path for path in found if path.startswith(str(self.files.parent))]

    def in_progress(self, ending: str, transfer: str = "t1") -> Path:
        """The file of a transfer's bytes, `part`, or of what of them is verified, `log`."""
        return self.files / f".castray-{transfer}.{self.incoming._node}.{ending}"

    @property
    def temporary(self) -> list[str]:
        return sorted(p.name for p in self.files.rglob(".castray-*"))


@contextmanager
def receiving(folder: Path) -> Iterator[Node]:
    """Start one; in the end it has let go of every file."""
    one = Node(folder)
    yield one
    one.incoming.close()
    assert one.open_files() == []


def chunks_of(data: bytes) -> str:
    """What a sender says of all chunks of a file."""
    parts = (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
    return sha256(b"".join(hashlib.sha256(part).digest() for part in parts))


def sha256(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def type_of(answer: dict[str, Any]) -> str:
    return str(answer["error"]["type"])
