"""One recipient of a file, as its sender sees it: begun, sent to, lost sight of, done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from castrayd.driver.caster.remote import Gone, Remote, watched
from castrayd.driver.caster.roots import FileRefusal
from castrayd.driver.caster.source import Source
from castrayd.driver.caster.tally import Tally, standing

__all__ = ("TRIES", "Recipient")

TRIES = 4
"""A chunk that arrives damaged, or not at all, is sent so often."""
_FINISHES = 5
_SHAKES = 5
"""Lost so often in a row, each time just after it was begun, it is given up."""
_CALL_S = 30.0
_ABANDON_S = 5.0
_RETRY_S = 1.0
_SLOW_BYTES_S = 50e6
"""A file is hashed and synced at least so fast, or asking for it is given up and repeated."""


class Host(Protocol):
    """What a recipient asks of its transfer."""

    def spawn(self, work: Coroutine[Any, Any, None], *, last: bool = False) -> None:
        """Run a coroutine beside the rest; one that is the recipient's last is waited for."""

    def tell(self) -> None:
        """Hear that a recipient's state has changed."""

    async def sha256(self) -> str:
        """Return the source's sha256, known or not; raises FileRefusal."""


_AGAIN = frozenset({"unknown_transfer", "checksum_mismatch"})
"""A file that cannot be finished so is begun again: it then says what it has."""


class Recipient:
    """For use in one loop; `progress` from any thread. `host` is the transfer that it is of."""

    def __init__(
        self, plan: dict[str, Any], name: str, source: Source, remote: Remote, host: Host
    ) -> None:
        self.name = name
        self._plan = plan
        self._source = source
        self._remote = remote
        self._host = host
        self._state = "beginning"
        self._life = 0
        """How often it has begun: what concerns an earlier life is heard no more."""
        self._generation = ""
        """What it calls its life."""
        self._trouble_since: float | None = None
        self._shakes = 0
        """How often in a row it was lost without a chunk between."""
        self._differs: str | None = None
        """The sha256 of what it has under the name, or from before, which is not the source."""
        self._finishes = 0
        self.tally = Tally(source)
        self._facts: dict[str, Any] = {}

    def progress(self) -> dict[str, Any]:
        """Return where it stands. Bytes are verified, or sent, when it has said so.

        What it has of them is None as long as it has not told this sender.
        """
        return {
            **standing(self.name, self._state if self.has_ended else "running"),
            "bytes_verified": self.tally.verified if self.tally.has_told else None,
            "bytes_sent": self.tally.sent,
            **self._facts,
        }

    @property
    def state(self) -> str:
        """One of beginning, ready, done, failed, cancelled."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether it takes chunks now."""
        return self._state == "ready"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self._state not in {"beginning", "ready"}

    @property
    def in_trouble(self) -> bool:
        """Whether it was asked, and did not answer."""
        return self._trouble_since is not None

    def _turn(self, state: str) -> None:
        self._state = state
        self._host.tell()

    async def begin(self) -> None:
        """Begin or resume; where it does not answer, again each second until patience ends."""
        try:
            while self._state == "beginning":
                await self._try()
        except FileRefusal as refusal:  # of the source, when it was hashed
            self.fail(refusal.document()["error"])
        except Exception as error:  # noqa: BLE001  another node's answer may be anything
            self.fail({"type": "internal", "message": f"its answer makes no sense: {error!r}"})

    async def _try(self) -> None:
        plan = self._plan
        spec = {key: plan[key] for key in ("id", "path", "chunk_bytes", "if_exists")}
        spec = {**spec, "size": self._source.size, "differs": self._differs}
        try:
            await self._remote.find(self._call_s)
            answer = await self._remote.ask("file_begin", self._slow_s, spec)
        except Gone as gone:
            if self._has_patience(str(gone)):
                await asyncio.sleep(_RETRY_S)  # noqa: TID251  the cluster has no anyio
        else:
            await self._begun(answer)

    async def _begun(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            self.fail(answer["error"])
        elif "done" in answer:
            await self._compare(answer["done"])
        elif "there" in answer:
            await self._compare_there(answer["there"])
        else:
            self._resume(answer["have"], answer["generation"])

    async def _compare(self, result: dict[str, Any]) -> None:
        """End it where it has the source; what it has may be what the source was before."""
        if await self._host.sha256() == result["sha256"]:
            self._done(result)
        else:
            self._differs = result["sha256"]  # and is begun again with that

    async def _compare_there(self, sha256: str) -> None:
        path, size = self._plan["path"], self._source.size
        await self._compare({"path": path, "bytes": size, "sha256": sha256, "skipped": True})
        if self.has_ended:
            self._abandon()

    def _resume(self, have: list[list[Any]], generation: str) -> None:
        self.tally.resume(have)
        self._generation = generation
        self._life += 1
        self._trouble_since = None
        self._turn("ready")

    def wants(self, index: int, digest: bytes) -> bool:
        """Whether it is to be sent this chunk now."""
        if self.is_ready:
            self.tally.compare(index, digest)
        return self.is_ready and self.tally.lacks(index)

    async def deliver(
        self, index: int, digest: bytes, refs: list[Any], *, relay: bool = False
    ) -> list[Any]:
        """Send a chunk: the first of the refs, another when that is lost or arrives damaged.

        Returns the refs under which a relay has put it again; none when it has not.
        """
        error: dict[str, Any] = {}
        for ref in refs:
            if not self.is_ready:
                return []
            life = self._life
            chunk = {"index": index, "sha256": digest.hex(), "generation": self._generation}
            try:
                call = (self._plan["id"], chunk, [ref], relay)
                answer = await watched(self._remote, "file_take", self._call_s, *call)
            except Gone as gone:
                self._shake(life, str(gone))
                return []
            self.tally.sent += answer.get("received", 0)
            if life != self._life:
                return []
            error = answer.get("error", {})
            if not error:
                self.tally.hold(index)
                self._shakes = 0
                return list(answer.get("refs", ()))
            if error["type"] not in {"checksum_mismatch", "object_lost"}:
                break
        self._refused(life, error)
        return []

    def _refused(self, life: int, error: dict[str, Any]) -> None:
        if error["type"] in {"unknown_transfer", "object_lost"}:
            self._shake(life, error["message"])
        else:
            self.fail(error)

    async def finish(self, sha256: str) -> None:
        """Have it publish the file, of which it has all."""
        self._finishes += 1
        life = self._life
        try:
            facts = (self._plan["id"], sha256, self._source.chunks, self._mode)
            answer = await self._remote.ask("file_finish", self._slow_s, *facts)
        except Gone as gone:
            self._shake(life, str(gone))
            return
        error = answer.get("error")
        if error is None:
            self._done(answer)
        elif error["type"] in _AGAIN and self._finishes < _FINISHES:
            self._shake(life, error["message"])
        else:
            self.fail(error)

    def _shake(self, life: int, message: str) -> None:
        """Begin it again in the background, unless that was done since `life`."""
        if self._life != life or not self.is_ready:
            return
        self._shakes += 1
        if self._shakes > _SHAKES:
            self.fail({"type": "unreachable", "message": message})
        elif self._has_patience(message):
            self._turn("beginning")
            self._host.spawn(self.begin())

    def _has_patience(self, message: str) -> bool:
        """Whether it may still come back; it has failed when not."""
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
            self._host.tell()
        if now - self._trouble_since < self._plan["patience_s"]:
            return True
        self.fail({"type": "unreachable", "message": message})
        return False

    def _done(self, result: dict[str, Any]) -> None:
        # what a node of before has remembered says nothing of skipping
        self._facts = {key: result.get(key) for key in ("sha256", "path", "skipped")}
        self.tally.verified, self.tally.has_told = result["bytes"], True
        self._turn("done")

    def fail(self, error: dict[str, Any]) -> None:
        """End it, unless it has ended; what it has of the file is removed."""
        self._end("failed", {"type": error["type"], "message": error["message"]})

    def cancel(self) -> None:
        """End it as nobody wants it any more, unless it has ended."""
        self._end("cancelled", None)

    def _end(self, state: str, error: dict[str, Any] | None) -> None:
        if self.has_ended:
            return
        self._facts = {"error": error}
        self._turn(state)
        if not error or error["type"] != "unreachable":
            self._abandon()

    def _abandon(self) -> None:
        self._host.spawn(self._abandoned(), last=True)

    async def _abandoned(self) -> None:
        try:
            await self._remote.ask("file_abandon", _ABANDON_S, self._plan["id"])
        except Gone:
            return

    @property
    def _mode(self) -> int | None:
        """The mode of the source; an upload's is that of the spool, and none of the file's."""
        return None if self._plan["source"].startswith("uploads:") else self._source.mode

    @property
    def _call_s(self) -> float:
        rate = self._plan.get("rate")
        return _CALL_S + (self._plan["chunk_bytes"] / rate if rate else 0)

    @property
    def _slow_s(self) -> float:
        return self._call_s + self._source.size / _SLOW_BYTES_S
