"""What the doctor says of this host, seen well and unwell."""

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from castrayd.probe import host
from castrayd.probe.host import HostCheck, Verdict
from castrayd.probe.local_node import Raylet

SEVENTH = pwd.getpwuid(7).pw_name
OK, WARNING, FAILED, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.UNKNOWN


def _raylet(pid: int, uid: int = 7) -> Raylet:
    return Raylet(pid, uid, "n", "h:1", "c", f"/sock/{pid}")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> dict[int, type[OSError] | None]:
    """What comes of connecting to each raylet, by pid."""
    verdicts: dict[int, type[OSError] | None] = {}
    monkeypatch.setattr(host, "try_socket", lambda raylet: verdicts[raylet.pid])
    return verdicts


def _judged(check: HostCheck, verdict: Verdict, remedy: str) -> None:
    """A check is well, or says what to do."""
    assert check.verdict is verdict
    assert remedy in (check.remedy or "")
    assert (check.remedy is None) == (verdict is OK)


def test_raylet_that_is_missing_matters_where_one_is_needed() -> None:
    """By Ray Client alone none is."""
    _judged(host.check_raylets([], needed=True), FAILED, "ray start --address")
    _judged(host.check_raylets([], needed=False), OK, "")


@pytest.mark.parametrize(
    ("first", "second", "verdict", "remedy"),
    [
        (None, PermissionError, OK, ""),
        (PermissionError, OSError, FAILED, f"--run-as {SEVENTH}"),
        (OSError, OSError, FAILED, "finish starting"),
    ],
)
def test_one_raylet_that_is_ours_to_use_is_enough(
    sockets: dict[int, type[OSError] | None],
    first: type[OSError] | None,
    second: type[OSError] | None,
    verdict: Verdict,
    remedy: str,
) -> None:
    """All are told, each with its owner."""
    sockets.update({1: first, 2: second})
    check = host.check_raylets([_raylet(1), _raylet(2)], needed=True)

    _judged(check, verdict, remedy)
    assert "pid 1 of uid 7: " in check.seen
    assert "pid 2 of uid 7: " in check.seen


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, OK), (0o400, OK), (0o640, WARNING), (0o604, WARNING)]
)
def test_token_file_that_others_read_is_a_warning(
    tmp_path: Path, mode: int, verdict: Verdict
) -> None:
    """Its mode is shown; what is in it is never read."""
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(mode)
    check = host.check_token("ray.token_file", str(path), trouble=False)

    _judged(check, verdict, "chmod 600" if verdict is WARNING else "")
    assert f"mode {mode:04o}" in check.seen
    assert "secret" not in check.seen


def test_token_elsewhere_than_where_it_was_wanted_is_a_warning(tmp_path: Path) -> None:
    """In the environment there is no mode; a file that went away cannot be judged."""
    _judged(host.check_token("env:RAY_AUTH_TOKEN", None, trouble=False), OK, "")
    _judged(host.check_token("none was found", None, trouble=True), WARNING, "ray.token_file")
    gone = host.check_token("ray.token_file", str(tmp_path / "gone"), trouble=False)
    _judged(gone, UNKNOWN, "Look again")


@pytest.mark.parametrize(("kernel", "verdict"), [(True, OK), (False, WARNING), (None, UNKNOWN)])
def test_clock_is_well_only_when_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch, kernel: bool | None, verdict: Verdict
) -> None:
    """The kernel's word, or timesyncd's; silence is not good news."""
    monkeypatch.setattr(host, "_kernel_in_step", lambda: kernel)
    monkeypatch.setattr(os.path, "exists", lambda _path: False)
    _judged(host.check_clock(), verdict, "" if verdict is OK else "chrony")
    monkeypatch.setattr(os.path, "exists", lambda _path: True)
    _judged(host.check_clock(), OK, "")


def test_kernel_answers_or_does_not() -> None:
    """The real call: it must neither raise nor change anything."""
    assert host._kernel_in_step() in {True, False, None}


@pytest.mark.parametrize(
    ("size", "free", "verdict", "remedy"),
    [
        (8 << 30, 4 << 30, OK, ""),
        (64 << 20, 64 << 20, WARNING, "--shm-size"),
        (8 << 30, 1 << 20, WARNING, "who fills"),
    ],
)
def test_shm_is_large_enough_and_not_full(
    size: int, free: int, verdict: Verdict, remedy: str
) -> None:
    """A container's 64 MiB are too little."""
    _judged(host.judged_shm(size, free), verdict, remedy)


def test_shm_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    """It is looked at for real, too."""
    _judged(host.check_shm(str(tmp_path / "none")), UNKNOWN, "tmpfs")
    assert " MiB free" in host.check_shm(str(tmp_path)).seen


@pytest.mark.parametrize(("limit", "verdict"), [(256, WARNING), (1024, OK), (-1, OK)])
def test_limit_of_open_files(limit: int, verdict: Verdict) -> None:
    """-1 is none at all."""
    _judged(host.check_files(limit), verdict, "" if verdict is OK else "LimitNOFILE")
    assert host.check_files().name == "open files"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[str]:
    """The path of a socket whose queue takes one."""
    path = str(tmp_path / "s")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(path)
        sock.listen(0)
        yield path


def test_control_socket_tells_rights_or_why_nobody_answers(listening: str) -> None:
    """Asked of a daemon, of a socket that is silent, of one that is full, of none."""
    _judged(host.check_control("/s", ["read", "write"]), OK, "")
    assert "you may read, write" in host.check_control("/s", ["read", "write"]).seen
    for _ in range(2):
        _judged(host.check_control(listening, None), WARNING, "daemon's log")
    none = host.check_control("/nonexistent/s", None)
    _judged(none, WARNING, "castrayd run")
    assert "No such file" in none.seen
