"""The control socket: claimed with a lock, never stolen from whoever lives."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from castrayd.control.socket import MAX_PATH_BYTES, answers, claim
from castrayd.errors import AlreadyRunningError, SettingsError
from castrayd.lockfile import hold

ROOT = pytest.mark.lab


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path right below /tmp, ours alone; pytest's own would be too long for a socket."""
    made = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp"))
    yield made
    if made.is_symlink():
        made.unlink()
    shutil.rmtree(made, ignore_errors=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _bound(path: Path, backlog: int | None) -> socket.socket:
    """A socket of somebody else, who listens or has only left it there."""
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))
    if backlog is not None:
        other.listen(backlog)
    return other


def test_claimed_socket_takes_connections_and_is_gone_after(folder: Path) -> None:
    """All may connect, the lock is ours; at the end the socket goes and the lock file stays."""
    path = folder / "s"
    with claim(path):
        assert _connects(path)
        assert _mode(path) == 0o666
        assert _mode(folder / "s.lock") == 0o600

    assert ["s.lock"] == os.listdir(folder)


def test_claimed_again_when_given_back(folder: Path) -> None:
    """The lock file that stays locks nobody out."""
    with claim(folder / "s"):
        pass
    with claim(folder / "s"):
        assert _connects(folder / "s")


def test_second_claim_is_refused_and_harms_nothing(folder: Path) -> None:
    """Who comes second is told which socket it is; the first still listens."""
    path = folder / "s"
    with claim(path):
        with pytest.raises(AlreadyRunningError, match=str(path)), claim(path):
            pass
        assert _connects(path)


def test_locked_is_refused_though_no_socket_is_there(folder: Path) -> None:
    """A daemon that is about to bind is as safe as one that listens."""
    path = folder / "s"
    with claim(path):
        path.unlink()
        with pytest.raises(AlreadyRunningError), claim(path):
            pass
        assert not path.exists()


@ROOT
def test_what_root_makes_in_anothers_folder_is_that_ones(folder: Path) -> None:
    """A daemon by hand must not lock out the service, which is that other's."""
    os.chown(folder, 65534, 65534)
    lock = hold(folder / "name")
    os.close(lock)
    assert (folder / "name.lock").lstat().st_uid == 65534


async def test_we_answer_and_nobody_in_our_place(folder: Path) -> None:
    """A job of our uid may rename our socket and bind its own: that is no sign of our life."""
    path = folder / "s"
    with claim(path) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answers, path)
            await anyio.to_thread.run_sync(lambda: _hang_up(listener))
        path.rename(folder / "ours")
        code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); "
        code += "s.listen(); print(flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(ConnectionError, match=f"{other.pid} answers at {path}"):
                await answers(path)
            other.communicate(b"\n")


def _hang_up(listener: socket.socket) -> None:
    listener.setblocking(True)
    listener.accept()[0].close()


def test_stale_socket_is_replaced(folder: Path) -> None:
    """What a killed daemon has left refuses connections, and gives way."""
    path = folder / "s"
    _bound(path, None).close()
    assert path.is_socket()
    with claim(path):
        assert _connects(path)


@pytest.mark.parametrize("waiting", [0, 3])
def test_live_socket_is_never_stolen(folder: Path, waiting: int) -> None:
    """Somebody who listens without our lock keeps the socket, with a full backlog too."""
    path = folder / "s"
    clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
    with _bound(path, 0 if waiting else 5):
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        before = path.lstat()
        with pytest.raises(SettingsError, match="another process listens") as caught, claim(path):
            pass
        assert caught.value.passing  # it is tried again: that one may go
        assert os.path.samestat(before, path.lstat())
    for client in clients:
        client.close()


def test_file_in_the_way_is_named_and_kept(folder: Path) -> None:
    """What is no socket is not ours to remove."""
    path = folder / "s"
    path.write_text("precious")
    with pytest.raises(SettingsError, match="no socket"), claim(path):
        pass

    assert path.read_text() == "precious"


def test_socket_of_another_in_our_place_is_left_at_the_end(folder: Path) -> None:
    """Who has replaced our socket meanwhile keeps theirs."""
    path = folder / "s"
    with claim(path):
        path.unlink()
        theirs = _bound(path, 1)
    with theirs:
        assert _connects(path)


def test_lock_is_given_back_when_the_path_is_unusable(folder: Path) -> None:
    """A failed claim holds nothing: when the obstacle has gone, the next one succeeds."""
    path = folder / "s"
    path.mkdir()
    with pytest.raises(SettingsError), claim(path):
        pass
    path.rmdir()
    with claim(path):
        assert _connects(path)


def test_lock_that_is_a_link_is_refused(folder: Path) -> None:
    """Nobody makes us open a file elsewhere."""
    (folder / "s.lock").symlink_to(folder / "elsewhere")
    with pytest.raises(SettingsError), claim(folder / "s"):
        pass

    assert not (folder / "elsewhere").exists()


@pytest.mark.parametrize("extra", [0, 1])
def test_longest_path_is_107_bytes(folder: Path, extra: int) -> None:
    """The kernel's limit is told as such, in bytes; the path of exactly that length works."""
    room = MAX_PATH_BYTES + extra - len(os.fsencode(folder)) - 1
    path = folder / ("é" * (room // 2) + "x" * (room % 2))
    assert MAX_PATH_BYTES + extra == len(os.fsencode(path))
    if extra:
        with pytest.raises(SettingsError, match="107"), claim(path):
            pass
        assert [] == os.listdir(folder)
    else:
        with claim(path):
            assert _connects(path)


def test_new_folder_is_open_to_all_whatever_the_umask(folder: Path) -> None:
    """Groups that may read must be able to reach the socket."""
    old = os.umask(0o077)
    try:
        with claim(folder / "new" / "s"):
            assert _mode(folder / "new") == 0o755
    finally:
        os.umask(old)


def test_new_folder_right_below_tmp_is_ours_alone(folder: Path) -> None:
    """In /tmp anybody could have made it before us."""
    folder.rmdir()
    with claim(folder / "s"):
        assert _mode(folder) == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_folder_right_below_tmp_that_others_write_is_refused(folder: Path, mode: int) -> None:
    """Who writes there could replace the socket; nothing is made in it."""
    folder.chmod(mode)
    with pytest.raises(SettingsError, match="not ours alone"), claim(folder / "s"):
        pass

    assert [] == os.listdir(folder)


@ROOT
def test_folder_right_below_tmp_of_another_is_refused(folder: Path) -> None:
    """Its owner could replace the socket."""
    os.chown(folder, 65534, -1)
    with pytest.raises(SettingsError, match="not ours alone"), claim(folder / "s"):
        pass


def test_link_right_below_tmp_is_refused(folder: Path) -> None:
    """Anybody can put a link there that leads elsewhere."""
    target = folder / "target"
    target.mkdir()
    link = Path(f"{folder}-link")
    link.symlink_to(target)
    try:
        with pytest.raises(SettingsError, match="not ours alone"), claim(link / "s"):
            pass
    finally:
        link.unlink()

    assert [] == os.listdir(target)


def test_folder_that_cannot_be_made_is_a_fault_of_the_settings(folder: Path) -> None:
    """The path is named with the system's own words."""
    (folder / "file").write_text("")
    path = folder / "file" / "below" / "s"
    with pytest.raises(SettingsError) as caught, claim(path):
        pass

    assert [str(path)] == [p.path for p in caught.value.problems]
