"""Whose turn it is: transfers in order, so many at once in all, from a node and to one. Pure.

The first that has to wait for one of its nodes is passed by those behind it, but for a place at
each of them that is kept for it: it has its turn when some of those that are there have ended.
"""

from bisect import insort
from collections import Counter
from typing import Final

from castrayd.casting.plans import Transfer

__all__ = ("Turns",)

AT_ONCE: Final = 16
A_NODE: Final = 2
"""Transfers at once from one node, and to one."""


class Turns:
    """Those that wait, and those that have their turn until they leave."""

    def __init__(self) -> None:
        self._waiting: list[Transfer] = []
        self._taken: dict[str, Transfer] = {}
        self._sending: Counter[str | None] = Counter()
        self._receiving: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def add(self, one: Transfer) -> None:
        """Have it wait behind what was under way, or was accepted, before it."""
        insort(self._waiting, one, key=lambda t: (t.state == "queued", t.created_at))

    def take(self) -> list[str]:
        """Give their turn to all that may have it now; returns their ids."""
        taken, kept = [], None
        for one in self._waiting:
            if len(self._taken) >= AT_ONCE:
                break
            if self._has_room(one):
                self._taken[one.id] = one
                self._count(one, 1)
                taken.append(one.id)
            elif kept is None:  # its places are kept, or those behind it might pass it for ever
                kept = one
                self._count(one, 1)
        if kept is not None:
            self._count(kept, -1)
        self._waiting = [one for one in self._waiting if one.id not in self._taken]
        return taken

    def _has_room(self, one: Transfer) -> bool:
        return self._sending[one.node] < A_NODE and all(
            self._receiving[part.recipient] < A_NODE for part in one.parts
        )

    def leave(self, transfer_id: str) -> None:
        """Let go of its turn, or of its place among those that wait."""
        one = self._taken.pop(transfer_id, None)
        if one is None:
            self._waiting = [other for other in self._waiting if other.id != transfer_id]
        else:
            self._count(one, -1)

    def _count(self, one: Transfer, by: int) -> None:
        self._sending[one.node] += by
        for part in one.parts:
            self._receiving[part.recipient] += by
            if not self._receiving[part.recipient]:
                del self._receiving[part.recipient]
