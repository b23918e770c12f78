"""Where the control socket is: made by the daemon, found by castrayctl."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from castrayd.control.paths import default_socket_path, find_socket

UID = os.geteuid()
ROOT = pytest.mark.lab


def test_told_path_wins() -> None:
    """CASTRAYD_SOCKET is taken as it is, for both."""
    environ = {"CASTRAYD_SOCKET": "/x/s", "RUNTIME_DIRECTORY": "/y", "XDG_RUNTIME_DIR": "/z"}

    assert Path("/x/s") == default_socket_path(None, environ)
    assert "/x/s" == find_socket(None, environ)


def test_systemds_folder_comes_first() -> None:
    """Of several, separated by colons, the first one."""
    environ = {"RUNTIME_DIRECTORY": "/tmp/a:/tmp/b"}

    assert Path("/tmp/a/control.sock") == default_socket_path(None, environ)


@ROOT
def test_root_uses_run() -> None:
    """An instance has a folder of its own."""
    assert Path("/run/castrayd/control.sock") == default_socket_path(None, {})
    assert Path("/run/castrayd-blue/control.sock") == default_socket_path("blue", {})


def test_user_uses_the_runtime_folder_else_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of root's is passed over by who cannot write there."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "access", lambda *_: False)

    xdg = {"XDG_RUNTIME_DIR": "/run/user/1234"}
    assert Path("/run/user/1234/castrayd/control.sock") == default_socket_path(None, xdg)
    assert Path("/tmp/castrayd-blue-1234/control.sock") == default_socket_path("blue", {})


def test_find_takes_the_socket_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own daemon is found although root would look elsewhere first."""
    (tmp_path / "castrayd-t").mkdir()
    path = tmp_path / "castrayd-t" / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path itself may be longer than a socket's can be
        listener.bind("castrayd-t/control.sock")

        assert str(path) == find_socket("t", {"XDG_RUNTIME_DIR": str(tmp_path)})


@ROOT
@pytest.mark.parametrize("link", [False, True])
def test_find_passes_over_what_a_stranger_has_put_into_tmp(tmp_path: Path, link: bool) -> None:
    """A folder of somebody else's, or a link to a socket that is ours."""
    folder = Path(f"/tmp/castrayd-t{os.getpid()}-{UID}")
    folder.symlink_to(tmp_path) if link else folder.mkdir()
    try:
        (folder / "control.sock").touch()
        assert f"{folder}/control.sock" == find_socket(f"t{os.getpid()}", {})
        os.chown(folder, 1234, -1, follow_symlinks=False)
        assert f"/run/castrayd-t{os.getpid()}/control.sock" == find_socket(f"t{os.getpid()}", {})
    finally:
        folder.unlink() if link else shutil.rmtree(folder)


def test_import_costs_neither_aiohttp_nor_pathlib() -> None:
    """Castrayctl imports it at every start."""
    code = (
        "import sys; before = set(sys.modules); import castrayd.control.paths;"
        "print([m for m in ('aiohttp', 'pathlib', 'asyncio') if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
