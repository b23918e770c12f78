"""The door: no user takes all connections, and one that has gone takes none."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from castrayd.control import door as module
from castrayd.control.access import Peer, peer_of
from castrayd.control.door import Door

STRANGER = 4_000_000
OURSELVES = 4_000_001


class _Entrance:
    """A door, those who have come in by it, and the clients of both kinds."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self._path = path
        self._stack = stack
        self.door = stack.enter_context(Door())
        self.door.bind(str(path))
        self.door.listen(64)
        self.door.setblocking(False)
        self.inside: list[socket.socket] = []

    def client(self) -> socket.socket:
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(self._path))
        client.setblocking(False)
        return client

    def clients(self, count: int) -> list[socket.socket]:
        return [self.client() for _ in range(count)]

    def let_in(self) -> int:
        """Accept all who wait; returns how many may stay."""
        before = len(self.inside)
        while True:
            try:
                self.inside.append(self._stack.enter_context(self.door.accept()[0]))
            except BlockingIOError:
                return len(self.inside) - before


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.fixture
def entrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Entrance]:
    """A door with room for three of ours, and for two of any other user."""
    monkeypatch.setattr(module, "OURS", 3)
    monkeypatch.setattr(module, "OTHERS", 2)
    with contextlib.ExitStack() as stack:
        yield _Entrance(tmp_path / "s", stack)


def _come_as(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(module, "peer_of", lambda _: Peer(1, uid, frozenset()))


def test_connections_beyond_the_cap_are_closed_at_once(entrance: _Entrance) -> None:
    """Those who came first stay and work; those too many are told by the end of it."""
    clients = entrance.clients(5)

    assert entrance.let_in() == 3
    assert [False, False, False, True, True] == [_is_closed(client) for client in clients]
    entrance.inside[0].sendall(b"x")
    assert clients[0].recv(1) == b"x"


def test_there_is_room_again_after_one_has_closed(entrance: _Entrance) -> None:
    """What counts is what is open, not what ever came."""
    entrance.clients(4)
    entrance.let_in()
    entrance.inside[1].close()
    late = entrance.clients(2)

    assert entrance.let_in() == 1
    assert [False, True] == [_is_closed(client) for client in late]


def test_many_one_after_another_all_come_in(entrance: _Entrance) -> None:
    """The cap is of those at once; nothing is kept of those that are gone."""
    for _ in range(50):
        entrance.client().close()
        assert entrance.let_in() == 1
        entrance.inside[-1].close()

    assert sum(map(len, entrance.door._open.values())) <= 3


@pytest.mark.parametrize(("uid", "room"), [(0, 3), (OURSELVES, 3), (STRANGER, 2)])
def test_cap_is_by_user(
    entrance: _Entrance, monkeypatch: pytest.MonkeyPatch, uid: int, room: int
) -> None:
    """Root and our own user have more room than anybody else."""
    monkeypatch.setattr(os, "geteuid", lambda: OURSELVES)
    _come_as(monkeypatch, uid)
    entrance.clients(5)

    assert entrance.let_in() == room


def test_one_user_takes_nothing_from_another(
    entrance: _Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger at the cap shuts out himself alone."""
    _come_as(monkeypatch, STRANGER)
    entrance.clients(9)
    entrance.let_in()
    _come_as(monkeypatch, STRANGER + 2)
    entrance.clients(9)
    assert entrance.let_in() == 2
    _come_as(monkeypatch, os.geteuid())
    entrance.clients(9)
    assert entrance.let_in() == 3


def test_connection_gone_before_it_is_accepted_does_no_harm(entrance: _Entrance) -> None:
    """It is accepted as what it is, an end of file, and those behind it come in."""
    entrance.client().close()
    waiting = entrance.client()

    assert entrance.let_in() == 2
    assert entrance.inside[0].recv(1) == b""
    assert not _is_closed(waiting)


def test_connection_that_cannot_be_asked_who_it_is_is_closed(
    entrance: _Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one connection is none of the door's."""
    asked = 0

    def failing(connection: socket.socket) -> Peer:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError(107, "not connected")
        return peer_of(connection)

    monkeypatch.setattr(module, "peer_of", failing)
    clients = entrance.clients(2)

    assert entrance.let_in() == 1
    assert [True, False] == [_is_closed(client) for client in clients]
