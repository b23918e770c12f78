"""Casting as the API sees it: nodes, groups, messages, over whatever is attached.

The composition root makes one and runs it beside the supervisor; requests may come at any time.
"""

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any, Final

import anyio
import msgspec

from castrayd.casting.documents import CastDocument, PartDocument, TransferDocument
from castrayd.casting.groups import Groups
from castrayd.casting.link import Link
from castrayd.casting.messages import Messages
from castrayd.casting.nodes import CastingNodes
from castrayd.casting.paths import basename, checked
from castrayd.casting.plans import ACTIVE, Transfer
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.records import Records
from castrayd.casting.targets import To, needs_cluster, resolve
from castrayd.casting.transfers import Transfers
from castrayd.casting.uploads import Uploads
from castrayd.ledger import Ledger
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType
from castrayd.supervisor.documents import NodeDocument
from castrayd.supervisor.service import AttachmentService
from castrayd.telemetry.clock import Clock
from castrayd.telemetry.facts import CastFinished
from castrayd.telemetry.publisher import Publisher

__all__ = ("CastingService",)

BATCH: Final = 100
FOLLOW_S: Final = 10.0
"""How long one look at an inbox waits for something to come."""
AGAIN_S: Final = 1.0
_KINDS: Final = {
    "path_forbidden": ApiErrorType.PATH_FORBIDDEN,
    "not_found": ApiErrorType.NOT_FOUND,
}
READ_S: Final = 5.0
"""What a look at a casting node may take, beside what it is told to wait."""


class CastingService:
    """All of casting, for one daemon."""

    def __init__(  # noqa: PLR0913, PLR0917  the composition root names each part once
        self,
        service: AttachmentService,
        ledger: Ledger,
        publisher: Publisher,
        daemon_id: str,
        policy: Callable[[], CastingPolicy],
        clock: Clock,
        uploads: Path,
    ) -> None:
        """`uploads` is the folder for what is uploaded."""
        records = Records(ledger)
        self.link = Link(service, daemon_id)
        self.groups = Groups(records)
        self.nodes = CastingNodes(self.link, records, publisher, policy, self._taking_part)
        self._publisher = publisher
        self._messages: Messages | None = None
        self.uploads = Uploads(
            uploads, self.link, records, self.nodes.hidden, policy, self._in_use, self._state_of
        )
        self.transfers = Transfers(
            self.link, records, self.uploads, publisher, clock, lambda: policy().patience_s
        )
        self.groups.restore()
        self.nodes.restore()
        self.uploads.restore()
        self.transfers.restore()

    async def run(self, demo_nodes: int) -> None:
        """Keep the casting nodes until cancelled; first want so many for a demonstration."""
        await self.nodes.demo(demo_nodes)
        async with anyio.create_task_group() as tasks:
            self._messages = Messages(self.link, tasks)
            tasks.start_soon(self.transfers.run, name="transfers")
            tasks.start_soon(self.uploads.run, name="uploads")
            await self.nodes.run()

    async def cast(  # noqa: PLR0913  a message has these
        self,
        to: To,
        body: Any,  # noqa: ANN401  any JSON
        *,
        sender: str | None,
        message_id: str | None,
        timeout_s: float,
        retries: int,
    ) -> CastDocument:
        """Send a message to whom it is meant for, and return the receipts.

        Raises `ApiError`: `not_connected`, `not_found` for an unknown group, `bad_request`,
        `too_large`, `busy`.
        """
        self.link.attachment()
        if self._messages is None:
            raise ApiError(ApiErrorType.BUSY, "castrayd is starting")
        names = await self.resolve(to, sender)
        began_s = monotonic()
        done = await self._messages.cast(
            names,
            body,
            sender=sender or f"@{socket.gethostname()}",
            message_id=message_id,
            timeout_s=timeout_s,
            retries=retries,
        )
        self._publisher.publish(
            CastFinished(
                done.id,
                sender or "",
                done.delivered,
                done.failed,
                monotonic() - began_s,
                {one.recipient: one.outcome for one in done.receipts},
            )
        )
        return done

    async def transfer(  # noqa: PLR0913  a transfer has these
        self,
        node: str | None,
        source: str,
        to: To,
        path: str | None,
        *,
        if_exists: str,
        bandwidth_bytes_s: int | None,
        uid: int,
    ) -> TransferDocument:
        """Accept a transfer of a node's file, or of the user's upload, to whom it is meant for.

        Raises `ApiError`: `path_forbidden`, `not_found`, `forbidden` for another's upload;
        `not_connected` where who is meant only the cluster can tell.
        """
        if node is not None:
            checked(source, "source.path")
        target = checked(path or f"files:{basename(source)}", "path")
        with self._kept(node, source, uid):
            if needs_cluster(to):
                self.link.attachment()
            names = await self.resolve(to, node)
            one = await self.transfers.create(
                node, source, names, target,
                if_exists=if_exists, bandwidth_bytes_s=bandwidth_bytes_s,
            )  # fmt: skip
            if node is None:
                await self.uploads.sent(source, one.id)
        return self.document(one)

    def _kept(self, node: str | None, source: str, uid: int) -> AbstractContextManager[None]:
        """Keep an upload while a transfer of it is on its way into the ledger."""
        return self.uploads.held(source, uid) if node is None else nullcontext()

    async def retry(self, transfer_id: str, uid: int) -> TransferDocument:
        """Begin again with those that do not have it.

        Raises `ApiError`: `not_found`, `conflict`, `forbidden` as for a new one.
        """
        one = self.transfers.show(transfer_id)
        with self._kept(one.node, one.source, uid):
            return self.document(await self.transfers.retry(transfer_id))

    def document(self, one: Transfer) -> TransferDocument:
        """Return what the API shows of a transfer."""
        speed, eta_s = self.transfers.speed(one)
        source = {"upload": one.source} if one.node is None else {
            "node": one.node, "path": one.source,
        }  # fmt: skip
        return TransferDocument(
            one.id, one.state, one.created_at, one.finished_at, source, one.path,
            one.bytes_total, one.bytes_verified, one.sha256, speed, eta_s,
            [
                PartDocument(
                    part.recipient, part.state, part.bytes_verified, part.bytes_sent,
                    part.sha256, part.path, part.skipped, part.error,
                )
                for part in one.parts
            ],
            one.reason,
        )  # fmt: skip

    async def listing(self, name: str, path: str, limit: int) -> list[Mapping[str, Any]]:
        """Return what is in a folder of a node's root.

        Raises `ApiError`: `not_connected`, `not_found`, `path_forbidden`.
        """
        answer = await self._asked(name, "files", path, limit, timeout_s=READ_S)
        if error := answer.get("error"):
            kind = _KINDS.get(error["type"], ApiErrorType.INTERNAL)
            raise ApiError(kind, error["message"], field="path")
        return list(answer.get("files", ()))

    def _in_use(self) -> set[str]:
        """Name the uploads that transfers still need."""
        return {o.source for o in self.transfers.all() if o.node is None and o.state in ACTIVE}

    def _taking_part(self) -> set[str]:
        """Name the casting nodes that transfers need now; `hidden` is whichever sends uploads."""
        active = [one for one in self.transfers.all() if one.state in ACTIVE]
        recipients = {part.recipient for one in active for part in one.parts}
        return recipients | {one.node or self.link.hidden for one in active}

    def _state_of(self, transfer_id: str) -> str | None:
        """Return the state of a transfer; None where it is forgotten."""
        try:
            return self.transfers.show(transfer_id).state
        except ApiError:
            return None

    async def resolve(self, to: To, sender: str | None) -> tuple[str, ...]:
        """Return the names that are meant; the cluster is asked only where it matters."""
        known = await self.nodes.known() if needs_cluster(to) else ()
        return resolve(to, sender=sender, known=known, members=self.groups.members)

    async def read(
        self, name: str, since: int, limit: int, *, acknowledge: bool, wait_s: float = 0.0
    ) -> list[Mapping[str, Any]]:
        """Return messages of a node's inbox after `since`; see `driver.caster.inbox`.

        Raises `ApiError`: `not_connected`, `not_found` where no such node answers.
        """
        answer = await self._asked(
            name, "read", since, limit, acknowledge, wait_s, timeout_s=wait_s + READ_S
        )
        return [{**message, "body": _json(message["body"])} for message in answer["messages"]]

    async def follow(
        self, name: str, since: int, *, acknowledge: bool
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Return an endless iterator of messages after `since`, and of those that come.

        With `acknowledge` each is done with once the next is asked for. A node that does not
        answer for a while is waited for. Raises `ApiError`: `not_connected`, `not_found`.
        """
        self.link.attachment()
        await self.nodes.show(name)
        return self._followed(name, since, acknowledge=acknowledge)

    async def _followed(
        self, name: str, since: int, *, acknowledge: bool
    ) -> AsyncIterator[Mapping[str, Any]]:
        while True:
            began_s = monotonic()
            try:
                found = await self.read(
                    name, since, BATCH, acknowledge=acknowledge, wait_s=FOLLOW_S
                )
            except ApiError:
                await anyio.sleep(AGAIN_S)
                continue
            if not found and monotonic() - began_s < AGAIN_S:
                await anyio.sleep(AGAIN_S)  # too many wait there already
            for message in found:
                yield message
                since = message["seq"]

    async def unified(self, nodes: Sequence[NodeDocument]) -> list[NodeDocument]:
        """Return the Ray nodes with their casting nodes, and their use as read there."""
        await self.nodes.all()
        found: dict[str, NodeDocument] = {}

        async def fill(node: NodeDocument) -> None:
            names = self.nodes.on(node.node_id)
            use = await self.host(names[0]) if names and node.alive else None
            found[node.node_id] = msgspec.structs.replace(node, casting_nodes=names, use=use)

        async with anyio.create_task_group() as tasks:
            for node in nodes:
                tasks.start_soon(fill, node)
        return [found[node.node_id] for node in nodes]

    async def host(self, name: str) -> Mapping[str, Any] | None:
        """Return the use of a node's host as read there; None where it does not answer."""
        try:
            facts: dict[str, Any] = await self.link.call(name, "host", timeout_s=READ_S)
        except (RecipientError, ApiError):
            return None
        return facts

    async def _asked(self, name: str, method: str, *arguments: Any, timeout_s: float) -> Any:  # noqa: ANN401
        try:
            return await self.link.call(name, method, *arguments, timeout_s=timeout_s)
        except RecipientError as error:
            if error.type is RecipientErrorType.UNREACHABLE:
                message = f"{name}: {error.message}"
                raise ApiError(ApiErrorType.NOT_FOUND, message) from error
            message = f"{name} does not answer: {error.message}"
            raise ApiError(ApiErrorType.BUSY, message) from error


def _json(text: str) -> msgspec.Raw | str:
    """Return a body to be shown as it was sent; what is no JSON to others is shown as text."""
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return text
