"""Calls to casting nodes, through the session that is attached at the moment."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from castrayd.casting.answers import checked, checked_outcomes
from castrayd.errors import ErrorType
from castrayd.refusals import ApiError, ApiErrorType, RecipientError, RecipientErrorType
from castrayd.session.bundle import Row
from castrayd.supervisor.attachment import Attachment
from castrayd.supervisor.service import AttachmentService

__all__ = ("ASK_S", "HIDDEN", "NAME", "PLACE_S", "Link")

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)"
"""What a casting node may be called: nothing that could be taken for anything else. Python's `$` is
also before a last line break."""
HIDDEN: Final = "_"
"""What names of nodes begin with that are nobody's recipients."""

ASK_S: Final = 3.0
PLACE_S: Final = 20.0
"""A first actor on a node waits for its worker process: a second or two, more on a busy host."""


class Link:
    """One per daemon. Every call has a deadline, and raises as `call` does."""

    def __init__(self, service: AttachmentService, daemon_id: str) -> None:
        self._service = service
        self.daemon_id = daemon_id

    @property
    def hidden(self) -> str:
        """What the names of this daemon's hidden nodes begin with, and of nobody else's."""
        return f"{HIDDEN}{self.daemon_id[:16]}-"

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

        Raises `RecipientError`: `unreachable` where nothing has gone out to it; after any other
        it may have happened, or still happen. `internal` too where its answer makes no sense.
        """
        answer = await self._ask(
            "cast.call", timeout_s, name=name, method=method, arguments=list(arguments)
        )
        return checked(method, answer)

    async def deliver(self, name: str, rows: Sequence[Row], timeout_s: float) -> list[str]:
        """Hand messages to a casting node; returns an outcome for each. Raises as `call` does."""
        session = self.attachment().session
        answer = _value(await session.deliver(name, rows, timeout_s=timeout_s))
        return checked_outcomes(answer, len(rows))

    async def describe(self, name: str, timeout_s: float = ASK_S) -> dict[str, Any]:
        """Return what a casting node says of itself, with the `actor_id` of who has said it."""
        facts: dict[str, Any] = checked(
            "describe", await self._ask("cast.describe", timeout_s, name=name)
        )
        if facts["name"] != name:
            message = f"it calls itself {facts['name']}"
            raise RecipientError(RecipientErrorType.INTERNAL, message)
        return facts

    async def make(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Make a casting node where none of its name is.

        Returns the `actor_id` of the one that is there then, and whether it `is_new`.
        """
        made: dict[str, Any] = await self._ask("cast.make", PLACE_S, spec=dict(spec))
        return made

    async def remove(self, name: str, actor_id: str | None) -> bool:
        """End a casting node for good if it is that actor; returns whether it was.

        Without an id whatever has the name is ended.
        """
        return bool(await self._ask("cast.remove", ASK_S, name=name, actor_id=actor_id))

    async def names(self) -> list[str]:
        """Return the names of all casting nodes of this namespace, of every owner."""
        return [str(name) for name in await self._ask("cast.names", ASK_S)]

    async def _ask(self, op: str, timeout_s: float, **arguments: Any) -> Any:  # noqa: ANN401
        session = self.attachment().session
        return _value(await session.cast(op, timeout_s=timeout_s, **arguments))


def _value(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if (error := answer.get("error")) is not None:
        raise RecipientError(error["type"], error["message"])
    return answer["value"]
