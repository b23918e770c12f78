"""A cluster of casting nodes that a test holds: what they send, and whether they answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio

from castrayd.casting.plans import Transfer
from castrayd.casting.transfers import Transfers
from castrayd.core.cluster import Node
from castrayd.refusals import ApiError, ApiErrorType, RecipientError
from castrayd.telemetry.facts import Fact

__all__ = ("SHA256", "Cluster", "became", "carried", "ended", "row", "said", "sent")

SHA256 = "ab" * 32
_TIMES_FASTER = 20
"""What does not answer is given up so much sooner than it would be."""


class Cluster:
    """The link to it, its nodes, and the ledger's records."""

    def __init__(self) -> None:
        self.sending: dict[str, dict[str, Any]] = {}
        """What the sender of each transfer says."""
        self.plans: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.gone: set[str] = set()
        self.frozen: set[str] = set()
        self.misleads = False
        """Whether senders tell of an end that is none."""
        self.published: dict[str, dict[str, Any]] = {}
        """By recipient, what it has published without the sender's knowing."""
        self.records: dict[str, Transfer] = {}
        self.facts: list[Fact] = []
        self.stores = dict.fromkeys("abcdef", 2.0**34)
        self.attached: Any = None
        self.attach()

    def attach(self) -> None:
        """Attach, as another attachment than any before."""
        nodes = {
            name: Node(
                name, alive=True, address=f"10.0.0.{n}", hostname=name, port=1, head=not n,
                resources={"object_store_memory": store},
            )
            for n, (name, store) in enumerate(self.stores.items())
        }  # fmt: skip
        self.attached = SimpleNamespace(nodes=nodes)

    def find(self) -> Any:
        return self.attached

    def attachment(self) -> Any:
        if self.attached is None:
            raise ApiError(ApiErrorType.NOT_CONNECTED, "no cluster is attached")
        return self.attached

    async def call(self, name: str, method: str, *arguments: Any, timeout_s: float) -> Any:
        self.attachment()
        self.calls.append((name, method))
        await anyio.sleep(0)
        if name in self.frozen:
            await anyio.sleep(timeout_s / _TIMES_FASTER)
            raise RecipientError("timed_out", "no answer in time")
        if name in self.gone:
            raise RecipientError("unreachable", "there is no such casting node")
        if method == "ended":
            return await self._ended(*arguments)
        return getattr(self, f"_{method}")(name, *arguments)

    async def _ended(self, transfer_id: str, wait_s: float) -> None:
        if self.misleads:
            return
        with anyio.move_on_after(wait_s):
            while self.sending.get(transfer_id, {}).get("state") == "running":
                await anyio.sleep(0.005)

    def _describe(self, name: str) -> dict[str, Any]:
        return {"node_id": name}

    def _send(self, _name: str, plan: dict[str, Any]) -> dict[str, Any]:
        self.plans.append(plan)
        rows = {name: row(name) for name in plan["recipients"]}
        self.sending[plan["id"]] = said("running", *rows.values(), bytes_total=None)
        return self.sending[plan["id"]]

    def _sending(self, _name: str, transfer_id: str) -> dict[str, Any] | None:
        return self.sending.get(transfer_id)

    def _cancel_sending(self, _name: str, transfer_id: str) -> None:
        if progress := self.sending.get(transfer_id):
            rows = [
                one if one["state"] == "done" else {**one, "state": "cancelled"}
                for one in progress["recipients"]
            ]
            self.sending[transfer_id] = {**progress, "state": "cancelled", "recipients": rows}

    def _file_abandon(self, name: str, _transfer_id: str) -> dict[str, Any]:
        return {"done": self.published[name]} if name in self.published else {}

    def says(self, one: Transfer, state: str, *rows: dict[str, Any], **more: Any) -> None:
        """Have the sender of a transfer say this from now on."""
        self.sending[one.id] = said(state, *rows, **more)

    def publish(self, fact: Fact) -> None:
        self.facts.append(fact)

    # --- the records ---

    def all(self, _kind: object) -> list[Transfer]:
        return list(self.records.values())

    async def put(self, _kind: object, key: str, record: Transfer) -> None:
        await anyio.sleep(0)
        self.records[key] = record

    async def delete(self, _kind: object, key: str) -> None:
        self.records.pop(key, None)


def row(recipient: str, state: str = "running", **more: Any) -> dict[str, Any]:
    """Return what a sender says of one recipient."""
    known: dict[str, Any] = dict.fromkeys(("sha256", "path", "error"))
    known |= {"bytes_verified": 0, "bytes_sent": 0}
    if state == "done":
        known |= {"bytes_verified": 100, "sha256": SHA256, "path": "files:x"}
    if state == "failed":
        known |= {"bytes_verified": 60, "error": {"type": "disk_full", "message": "full"}}
    return {"recipient": recipient, "state": state, **known, **more}


def said(state: str, *rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what a sender says."""
    known = {"bytes_total": 100, "sha256": None, "error": None}
    return {"state": state, "recipients": list(rows), **known, **more}


@asynccontextmanager
async def carried(patience_s: float = 60.0) -> AsyncIterator[tuple[Transfers, Cluster]]:
    """Carry transfers between the nodes of a cluster."""
    cluster = Cluster()
    held = cast("Any", cluster)
    clock = SimpleNamespace(now=iter(map("{:09}".format, range(10**9))).__next__)
    transfers = Transfers(held, held, held, held, cast("Any", clock), lambda: patience_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transfers.run)
        yield transfers, cluster
        tasks.cancel_scope.cancel()


async def sent(transfers: Transfers, node: str = "a", to: str = "bc") -> Transfer:
    """Have a file sent."""
    return await transfers.create(
        node, "files:x", list(to), "files:x", if_exists="refuse", bandwidth_bytes_s=None
    )


async def became(
    transfers: Transfers, one: Transfer, *states: str, within_s: float = 5
) -> Transfer:
    """Wait until a transfer has one of these states."""
    with anyio.move_on_after(within_s):
        while transfers.show(one.id).state not in states:
            await anyio.sleep(0.005)
    assert transfers.show(one.id).state in states, transfers.show(one.id)
    return transfers.show(one.id)


async def ended(transfers: Transfers, one: Transfer) -> Transfer:
    """Wait for the end of a transfer."""
    return await became(transfers, one, "done", "partial", "failed", "cancelled")
