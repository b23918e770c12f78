"""Whom a cast or a transfer is meant for: names, a group, all, or a selector over labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("Known", "Labels", "To", "needs_cluster", "resolve")


class Labels(Struct, frozen=True, forbid_unknown_fields=True):
    """Means what is on Ray nodes that have all of these labels."""

    labels: Mapping[str, str]


To: TypeAlias = Sequence[str] | str | Labels
"""A list of names, `all`, `group:NAME`, or `{"labels": {...}}`."""

GROUP = "group:"


@dataclass(frozen=True, slots=True)
class Known:
    """A casting node, as far as it matters to who is meant."""

    name: str
    labels: Mapping[str, str]
    """Of the Ray node that it is on."""


def needs_cluster(to: To) -> bool:
    """Whether only the cluster can tell who is meant: neither names nor a group."""
    return isinstance(to, Labels) or (isinstance(to, str) and not to.startswith(GROUP))


def resolve(
    to: To,
    *,
    sender: str | None,
    known: Iterable[Known],
    members: Callable[[str], Sequence[str] | None],
) -> tuple[str, ...]:
    """Return the names that are meant, each once, in order.

    `all` and labels mean every known casting node but the sender; names are taken as they are.
    Raises `ApiError` (`not_found` for a group that is not there, `bad_request`).
    """
    match to:
        case "all":
            return tuple(one.name for one in known if one.name != sender)
        case str() if to.startswith(GROUP):
            found = members(to.removeprefix(GROUP))
            if found is None:
                message = f"no such group: {to.removeprefix(GROUP)}"
                raise ApiError(ApiErrorType.NOT_FOUND, message, field="to")
            return tuple(name for name in found if name != sender)
        case str():
            message = 'a list of names, "all", "group:NAME" or {"labels": {...}} is expected'
            raise ApiError(ApiErrorType.BAD_REQUEST, message, field="to")
        case Labels():
            wanted = to.labels.items()
            return tuple(o.name for o in known if o.name != sender and wanted <= o.labels.items())
        case _:
            return tuple(dict.fromkeys(to))
