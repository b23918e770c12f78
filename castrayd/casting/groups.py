"""Groups: named sets of casting nodes, kept over restarts."""

from collections.abc import Sequence

import anyio
from msgspec import Struct

from castrayd.casting.documents import GroupDocument
from castrayd.casting.records import Records
from castrayd.refusals import ApiError, ApiErrorType

__all__ = ("Groups",)


class Group(Struct, frozen=True):
    """A group, as the ledger keeps it."""

    name: str
    members: tuple[str, ...]
    version: int = 1


class Groups:
    """All groups of one daemon."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._groups: dict[str, Group] = {}
        self._turn = anyio.Lock()

    def restore(self) -> None:
        """Read the groups from the ledger; once, before anything else."""
        self._groups = {group.name: group for group in self._records.all(Group)}

    def all(self) -> list[GroupDocument]:
        """Return every group, by name."""
        return [_document(self._groups[name]) for name in sorted(self._groups)]

    def members(self, name: str) -> tuple[str, ...] | None:
        """Return who is in a group; None where there is none of that name."""
        group = self._groups.get(name)
        return group.members if group else None

    def show(self, name: str) -> GroupDocument:
        """Return a group. Raises `ApiError` (`not_found`)."""
        if name not in self._groups:
            raise ApiError(ApiErrorType.NOT_FOUND, f"no such group: {name}")
        return _document(self._groups[name])

    async def put(self, name: str, members: Sequence[str]) -> GroupDocument:
        """Make a group, or give it these members, durably."""
        async with self._turn:
            old = self._groups.get(name)
            unique = tuple(dict.fromkeys(members))
            group = Group(name, unique, old.version + 1 if old else 1)
            await self._records.put(Group, name, group)
            self._groups[name] = group
        return _document(group)

    async def delete(self, name: str) -> None:
        """Forget a group, durably. Raises `ApiError` (`not_found`)."""
        async with self._turn:
            self.show(name)
            await self._records.delete(Group, name)
            del self._groups[name]


def _document(group: Group) -> GroupDocument:
    return GroupDocument(group.name, group.members, group.version)
