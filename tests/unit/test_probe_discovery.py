"""What discovery tells, and what it says when it cannot tell."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from castrayd.errors import ErrorType, Phase
from castrayd.probe import discovery
from castrayd.probe.discovery import FILE_ADDRESSES, Discovery, discover
from castrayd.probe.local_node import Raylet
from castrayd.probe.trust import listener_uids

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1
   1: 0100007F:18EB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  4242        0 1 1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
"""


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of the process table that takes for ever."""

    async def scan() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(discovery, "scan", scan)


@pytest.mark.usefixtures("hanging")
async def test_kind_that_does_not_answer_is_not_nothing(tmp_path: Path) -> None:
    """It is a candidate that failed: no cluster is started in the place of what it hides."""
    file = tmp_path / "addresses"
    file.write_text("head:6379")
    where = Discovery(kinds=("raylet", "file"), addresses_file=str(file))

    silent, found = await discover(where, 0.1)

    assert (silent.source, silent.address) == ("discovery:raylet", None)
    assert silent.fault is not None
    assert (silent.fault.type, silent.fault.phase) == (ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER)
    assert found.text == "head:6379"


async def test_what_no_operator_has_named_is_hearsay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A raylet's GCS and Ray's note; a file and a name were written down by somebody."""
    raylet = Raylet(1, os.geteuid(), "n", "127.0.0.1:1", "c", "/s", verified=True)

    async def scan() -> list[Raylet]:
        return [raylet]

    monkeypatch.setattr(discovery, "scan", scan)
    file = tmp_path / "addresses"
    file.write_text("head:2")
    (tmp_path / "ray_current_cluster").write_text("head:3\n")
    where = Discovery(temp_dir=str(tmp_path), addresses_file=str(file), dns_name="127.0.0.1:4")

    seen = [(one.text, one.hearsay) for one in await discover(where, 2.0)]
    assert seen == [
        ("127.0.0.1:1", True), ("head:3", True), ("head:2", False), ("127.0.0.1:4", False),
    ]  # fmt: skip


async def test_note_of_another_scheme_is_none(tmp_path: Path) -> None:
    """Ray writes the address of a GCS; to a client's server the token would go at once."""
    (tmp_path / "ray_current_cluster").write_text("ray://head:10001")
    where = Discovery(kinds=("ray_current_cluster",), temp_dir=str(tmp_path))

    assert await discover(where, 2.0) == ()


async def test_file_is_read_up_to_so_many_addresses(tmp_path: Path) -> None:
    """Each costs a probe a second."""
    file = tmp_path / "addresses"
    file.write_text("\n".join(f"head:{port}" for port in range(1, 1000)))
    where = Discovery(kinds=("file",), addresses_file=str(file))

    assert len(await discover(where, 2.0)) == FILE_ADDRESSES


@pytest.mark.parametrize(
    ("mode", "gid", "believed"),
    [(0o600, None, True), (0o660, 0, True), (0o660, 65533, False), (0o606, None, False)],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file away needs root")
async def test_file_that_others_can_write_to_is_not_believed(
    tmp_path: Path, mode: int, gid: int | None, believed: bool
) -> None:
    """Anybody, or the members of a group that is not ours, could name a place."""
    file = tmp_path / "addresses"
    file.write_text("head:6379")
    file.chmod(mode)
    if gid is not None:
        os.chown(file, -1, gid)
    (one,) = await discover(Discovery(kinds=("file",), addresses_file=str(file)), 2.0)

    assert (one.address is not None) is believed


def test_listener_is_who_holds_the_port(tmp_path: Path) -> None:
    """Of a port that listens; connections from it, and other ports, count for nothing."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TABLE)

    assert listener_uids(0x18EB, str(tmp_path)) == {1000}
    assert listener_uids(22, str(tmp_path)) == {0}
    assert listener_uids(80, str(tmp_path)) == set()
