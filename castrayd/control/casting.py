"""The routes of casting: nodes, groups, messages. Parse, ask the service, reply."""

from aiohttp import web

from castrayd.casting.service import CastingService
from castrayd.casting.wanted import Where
from castrayd.control.bodies import (
    CastingNodeBody,
    CastingNodeList,
    EmptyBody,
    FileList,
    GroupBody,
    GroupList,
    MessageBody,
    MessageList,
    TransferBody,
    TransferList,
    UploadReply,
)
from castrayd.control.gate import rights, uid
from castrayd.control.openapi import MAX_LIMIT, MAX_SEQ
from castrayd.control.parsing import body, flag, integer, name_in_path, query
from castrayd.control.replies import Guarded, add, reply
from castrayd.control.stream import EventStreams
from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("CastingRoutes",)

CHUNK_BYTES = 1024 * 1024


class CastingRoutes:
    """One method a route."""

    def __init__(self, casting: CastingService, streams: EventStreams) -> None:
        self._casting = casting
        self._streams = streams

    def add_to(self, router: web.UrlDispatcher, guarded: Guarded) -> None:
        """Register every route, each behind its guard."""
        for method, path, handler in (
            ("GET", "/api/nodes", self.nodes),
            ("POST", "/api/nodes", self.create_node),
            ("DELETE", "/api/nodes", self.purge),
            ("GET", "/api/nodes/{name}", self.node),
            ("DELETE", "/api/nodes/{name}", self.delete_node),
            ("GET", "/api/nodes/{name}/messages", self.inbox),
            ("GET", "/api/groups", self.groups),
            ("GET", "/api/groups/{name}", self.group),
            ("PUT", "/api/groups/{name}", self.set_group),
            ("DELETE", "/api/groups/{name}", self.delete_group),
            ("POST", "/api/messages", self.cast),
            ("GET", "/api/nodes/{name}/files", self.files),
            ("PUT", "/api/uploads/{name}", self.upload),
            ("DELETE", "/api/uploads/{name}", self.delete_upload),
            ("GET", "/api/transfers", self.transfers),
            ("POST", "/api/transfers", self.create_transfer),
            ("GET", "/api/transfers/{id}", self.transfer),
            ("DELETE", "/api/transfers/{id}", self.cancel_transfer),
            ("POST", "/api/transfers/{id}/retry", self.retry_transfer),
        ):
            add(router, method, path, guarded(handler))

    async def nodes(self, request: web.Request) -> web.Response:
        query(request)
        return reply(CastingNodeList(await self._casting.nodes.all()))

    async def create_node(self, request: web.Request) -> web.Response:
        asked = await body(request, CastingNodeBody)
        on = asked.on
        where = Where(on.node_id, on.address, on.hostname, on.labels) if on else Where()
        made = await self._casting.nodes.create(
            asked.name, where, asked.port, required=asked.required
        )
        return reply(made, status=201)

    async def purge(self, request: web.Request) -> web.Response:
        query(request)
        return reply(await self._casting.nodes.purge())

    async def node(self, request: web.Request) -> web.Response:
        query(request)
        return reply(await self._casting.nodes.show(name_in_path(request)))

    async def delete_node(self, request: web.Request) -> web.Response:
        query(request)
        await self._casting.nodes.delete(name_in_path(request))
        return reply({})

    async def inbox(self, request: web.Request) -> web.StreamResponse:
        values, name = query(request, "since", "limit", "follow", "ack"), name_in_path(request)
        since = integer(values, "since", 0, low=0, high=MAX_SEQ)
        limit = integer(values, "limit", 100, low=1, high=MAX_LIMIT)
        acknowledge = flag(values, "ack")
        if acknowledge and "write" not in rights(request):
            message = "to acknowledge messages is to write"
            raise ApiError(ApiErrorType.FORBIDDEN, message, field="ack")
        if flag(values, "follow"):
            items = await self._casting.follow(name, since, acknowledge=acknowledge)
            return await self._streams.serve_items(request, items)
        found = await self._casting.read(name, since, limit, acknowledge=acknowledge)
        return reply(MessageList([dict(one) for one in found]))

    async def groups(self, request: web.Request) -> web.Response:
        query(request)
        return reply(GroupList(self._casting.groups.all()))

    async def group(self, request: web.Request) -> web.Response:
        query(request)
        return reply(self._casting.groups.show(name_in_path(request)))

    async def set_group(self, request: web.Request) -> web.Response:
        asked = await body(request, GroupBody)
        return reply(await self._casting.groups.put(name_in_path(request), asked.members))

    async def delete_group(self, request: web.Request) -> web.Response:
        query(request)
        await self._casting.groups.delete(name_in_path(request))
        return reply({})

    async def files(self, request: web.Request) -> web.Response:
        values = query(request, "path", "limit")
        limit = integer(values, "limit", 1000, low=1, high=MAX_LIMIT)
        path = values.get("path", "files:")
        found = await self._casting.listing(name_in_path(request), path, limit)
        return reply(FileList([dict(one) for one in found]))

    async def upload(self, request: web.Request) -> web.Response:
        once, name = flag(query(request, "once"), "once"), name_in_path(request)
        data = request.content.iter_chunked(CHUNK_BYTES)
        try:
            size = await self._casting.uploads.put(name, data, uid(request), once=once)
        except (web.RequestPayloadError, ConnectionError) as error:
            raise ApiError(ApiErrorType.BAD_REQUEST, "the upload broke off") from error
        return reply(UploadReply(name, size), status=201)

    async def delete_upload(self, request: web.Request) -> web.Response:
        query(request)
        await self._casting.uploads.delete(name_in_path(request), uid(request))
        return reply({})

    async def transfers(self, request: web.Request) -> web.Response:
        limit = integer(query(request, "limit"), "limit", 50, low=1, high=MAX_LIMIT)
        found = self._casting.transfers.all()[:limit]
        return reply(TransferList([self._casting.document(one) for one in found]))

    async def create_transfer(self, request: web.Request) -> web.Response:
        asked = await body(request, TransferBody)
        source = asked.source
        text = source.upload if source.node is None else source.path
        if text is None or (source.node is None) == (source.upload is None):
            message = '{"node", "path"} or {"upload"} is expected'
            raise ApiError(ApiErrorType.BAD_REQUEST, message, field="source")
        made = await self._casting.transfer(
            source.node,
            text,
            asked.to,
            asked.path,
            if_exists=asked.if_exists,
            bandwidth_bytes_s=asked.bandwidth_bytes_s,
            uid=uid(request),
        )
        return reply(made, status=202)

    async def transfer(self, request: web.Request) -> web.Response:
        query(request)
        return reply(self._casting.document(self._casting.transfers.show(_id(request))))

    async def cancel_transfer(self, request: web.Request) -> web.Response:
        query(request)
        one = await self._casting.transfers.cancel(_id(request))
        return reply(self._casting.document(one))

    async def retry_transfer(self, request: web.Request) -> web.Response:
        await body(request, EmptyBody)
        return reply(await self._casting.retry(_id(request), uid(request)), status=202)

    async def cast(self, request: web.Request) -> web.Response:
        asked = await body(request, MessageBody)
        done = await self._casting.cast(
            asked.to,
            asked.body,
            sender=asked.sender,
            message_id=asked.id,
            timeout_s=asked.timeout_s,
            retries=asked.retries,
        )
        return reply(done)


def _id(request: web.Request) -> str:
    return request.match_info["id"]
