"""Who may read and write, by what the kernel says of the peer."""

import os
import socket
from unittest import mock

import pytest

from castrayd.control.access import AccessPolicy, Peer, peer_of
from castrayd.errors import SettingsError

STRANGER = 64_321
"""A uid that is not ours."""
POLICY = AccessPolicy(write_groups=frozenset({10}), read_groups=frozenset({20}))


def _peer(uid: int, *gids: int) -> Peer:
    return Peer(1, uid, frozenset(gids))


@pytest.mark.parametrize(
    ("peer", "reads", "writes"),
    [
        (_peer(0), True, True),
        (_peer(STRANGER), False, False),
        (_peer(STRANGER, 10), True, True),
        (_peer(STRANGER, 20), True, False),
        (_peer(STRANGER, 30), False, False),
    ],
)
def test_peer_may_as_its_uid_and_groups_say(peer: Peer, reads: bool, writes: bool) -> None:
    """Root and write groups write, read groups read, nobody else does anything."""
    assert (reads, writes) == (POLICY.may_read(peer), POLICY.may_write(peer))


def test_own_user_reloads_whatever_else_it_may() -> None:
    """As the service manager does in its name, which is no root."""
    policy = AccessPolicy(read_groups=frozenset({20}), own_uid_writes=False)
    own = _peer(os.geteuid() or STRANGER)
    with mock.patch("os.geteuid", return_value=own.uid):
        assert policy.may_reload(own)
        assert not policy.may_write(own)
    assert not policy.may_reload(_peer(STRANGER + 1, 20))


def test_token_owners_alone_may_name_an_address() -> None:
    """A member of a group could read the token off a port of its own."""
    assert POLICY.may_aim(_peer(0))
    assert POLICY.may_aim(_peer(os.geteuid()))
    assert not POLICY.may_aim(_peer(STRANGER, 10))


def test_own_uid_writes_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Ray job may run under our uid: then it may only read."""
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    ours = _peer(STRANGER)

    assert AccessPolicy().may_write(ours)
    careful = AccessPolicy(own_uid_writes=False)
    assert careful.may_read(ours)
    assert not careful.may_write(ours)


def test_peer_of_a_socket_is_who_made_it() -> None:
    """Pid, uid and all groups come from the kernel."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with here, there:
        peer = peer_of(here)

    assert (os.getpid(), os.geteuid()) == (peer.pid, peer.uid)
    assert {os.getegid(), *os.getgroups()} == peer.gids


def test_groups_that_do_not_exist_are_all_named() -> None:
    """A policy that cannot be meant is refused, with every fault at once."""
    with pytest.raises(SettingsError) as caught:
        AccessPolicy.of(("no-such-a",), ("root", "no-such-b"), own_uid_writes=True)

    assert [
        ("control.write_groups", "no such group: 'no-such-a'"),
        ("control.read_groups", "no such group: 'no-such-b'"),
    ] == [(p.path, p.message) for p in caught.value.problems]


def test_groups_are_looked_up_by_name() -> None:
    """`root` is gid 0 on every Linux."""
    assert frozenset({0}) == AccessPolicy.of((), ("root",), own_uid_writes=True).read_groups
