"""Calls to casting nodes, through the session that is attached at the moment."""

from collections.abc import Mapping
from typing import Any

from castrayd.errors import ErrorType
from castrayd.refusals import ApiError, ApiErrorType, RecipientError
from castrayd.supervisor.attachment import Attachment
from castrayd.supervisor.service import AttachmentService

__all__ = ("Link",)


class Link:
    """One per daemon. Every call has a deadline in seconds."""

    def __init__(self, service: AttachmentService, daemon_id: str) -> None:
        self._service = service
        self.daemon_id = daemon_id

    def attachment(self) -> Attachment:
        """Return the attachment as it is now. Raises `ApiError` (`not_connected`) without one."""
        attachment = self._service.attachment
        if attachment is None:
            message, hint = "no cluster is attached", "`castrayctl status` says why."
            raise ApiError(ApiErrorType.NOT_CONNECTED, message, hint)
        return attachment

    def find(self) -> Attachment | None:
        """Return the attachment, or None without one."""
        return self._service.attachment

    @property
    def astray(self) -> bool:
        """Whether the cluster that is attached is another than the wanted one."""
        away = {ErrorType.OTHER_CLUSTER, ErrorType.LOCAL_FALLBACK}
        return any(reason.type in away for reason in self._service.snapshot.reasons)

    async def call(self, name: str, method: str, *arguments: Any, timeout_s: float) -> Any:  # noqa: ANN401
        """Call a method of a casting node.

        Raises `RecipientError`: `unreachable`, or `timed_out`, after which it may still happen.
        """
        return await self._ask(
            "cast.call", timeout_s, name=name, method=method, arguments=list(arguments)
        )

    async def place(self, spec: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Make a casting node where none of its name is; returns what the one there says."""
        described: dict[str, Any] = await self._ask("cast.place", timeout_s, spec=dict(spec))
        return described

    async def remove(self, name: str, timeout_s: float) -> None:
        """End a casting node for good; one that is not there is no error."""
        await self._ask("cast.remove", timeout_s, name=name)

    async def names(self, timeout_s: float) -> list[str]:
        """Return the names of all casting nodes of this namespace, of every owner."""
        return [str(name) for name in await self._ask("cast.names", timeout_s)]

    async def _ask(self, op: str, timeout_s: float, **arguments: Any) -> Any:  # noqa: ANN401
        session = self.attachment().session
        answer = await session.cast(op, timeout_s=timeout_s, **arguments)
        if (error := answer.get("error")) is not None:
            raise RecipientError(error["type"], error["message"])
        return answer["value"]
