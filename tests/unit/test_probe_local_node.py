"""Raylets read from /proc, matched to a cluster, and believed or not."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from castrayd.errors import AttachError, ErrorType
from castrayd.probe.local_node import Raylet, find_local_node, raylets, usable

OURS, OTHERS = "aa" * 28, "bb" * 28


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[str]:
    """The path of a unix socket that accepts."""
    path = str(tmp_path / "raylet")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(path)
        sock.listen()
        yield path


@pytest.fixture
def raylet(listening: str) -> Raylet:
    """One whose socket this very process listens on."""
    return Raylet(os.getpid(), os.geteuid(), "n1", "10.9.0.8:6379", OURS, listening)


def test_command_line_is_read(tmp_path: Path) -> None:
    """Ids, address and socket come from the flags; other processes are passed over."""
    words = [
        "/x/raylet",
        "--node_id=n",
        "--gcs-address=h:1",
        "--cluster-id=c",
        "--raylet_socket_name=/s",
    ]
    for pid, line in (("7", words), ("8", ["/bin/sleep", "--node_id=n"]), ("self", words)):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(b"\0".join(word.encode() for word in line) + b"\0")
    (tmp_path / "9").mkdir()  # ended while we looked

    assert raylets(str(tmp_path)) == [Raylet(7, os.geteuid(), "n", "h:1", "c", "/s")]


def test_cluster_id_decides_over_the_address(raylet: Raylet) -> None:
    """A dead cluster's raylet at the same address is not taken for the new cluster's."""
    assert usable([raylet], OURS, "elsewhere:1") is not None
    assert usable([raylet], OTHERS, raylet.gcs_address) is None


def test_same_port_on_another_host_is_another_cluster(raylet: Raylet) -> None:
    """Without an id the whole address decides: 6379 is everybody's port."""
    assert usable([raylet], None, "10.9.0.8:6379") is not None
    assert usable([raylet], None, "10.9.0.9:6379") is None


def test_loopback_and_routable_address_of_this_host_are_one(raylet: Raylet) -> None:
    """Ray writes the host's own address where it was told a loopback one."""
    here = replace(raylet, gcs_address="127.0.0.2:6379")
    assert usable([here], None, "127.0.0.1:6379") is not None
    assert usable([here], None, "127.0.0.1:6380") is None


def test_usable_raylet_is_preferred_to_a_forbidden_one(
    raylet: Raylet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One raylet of another user does not hide our own of the same cluster."""
    theirs = replace(raylet, pid=2, socket="/theirs")
    verdicts = {theirs: PermissionError, raylet: None}
    monkeypatch.setattr("castrayd.probe.local_node.try_socket", verdicts.__getitem__)

    node = usable([theirs, raylet], OURS, "")
    assert node is not None
    assert node.pid == raylet.pid
    with pytest.raises(AttachError) as caught:
        usable([theirs], OURS, "")
    assert caught.value.fault.type is ErrorType.LOCAL_NODE_FORBIDDEN


async def test_raylet_that_accepts_nothing_is_told_apart_from_none(
    raylet: Raylet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which raylet is there and does not accept, not that it is another's."""
    starting = replace(raylet, socket="/nowhere")
    monkeypatch.setattr("castrayd.probe.local_node.raylets", lambda: [starting])
    with pytest.raises(AttachError) as caught:
        await find_local_node(OURS, "h:1", timeout_s=0.05, poll_s=0.01)

    assert caught.value.fault.type is ErrorType.NO_LOCAL_NODE
    assert f"the raylet {raylet.pid} of cluster" in caught.value.fault.message


def test_socket_of_another_process_is_nobodys_raylet(raylet: Raylet) -> None:
    """A process that names a socket on which somebody else listens is not used."""
    assert usable([replace(raylet, pid=1)], OURS, "") is None


@pytest.mark.parametrize(
    ("program", "found", "verified"),
    [
        ("/x/raylet/raylet", True, True),
        ("/x/raylet/raylet (deleted)", True, True),
        ("/usr/bin/python3.11", False, False),
        (None, True, False),
    ],
)
def test_program_is_the_kernels_word(
    tmp_path: Path, program: str | None, *, found: bool, verified: bool
) -> None:
    """What only calls itself a raylet is passed over; where we may not ask it is unverified."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"/x/raylet\0--node_id=n\0")
    if program is not None:
        (tmp_path / "7" / "exe").symlink_to(program)

    assert [one.verified for one in raylets(str(tmp_path))] == ([verified] if found else [])


def test_only_verified_raylets_of_root_or_our_own_user_are_discovered(raylet: Raylet) -> None:
    """The token goes to what is discovered."""
    known = replace(raylet, verified=True)
    assert known.believed
    assert not raylet.believed
    assert not replace(known, uid=54321).believed
