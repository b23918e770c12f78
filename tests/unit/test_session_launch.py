"""How a session is started: what it inherits, and what makes two of them alike."""

import sys

import pytest

from castrayd.core.states import Mode
from castrayd.session.launch import launch_spec
from castrayd.session.versions import interpreter_versions

ENVIRON = {
    "PATH": "/bin",
    "HOME": "/root",
    "RAY_ADDRESS": "x:1",
    "RAY_NAMESPACE": "n",
    "RAY_RUNTIME_ENV_HOOK": "h",
    "NOTIFY_SOCKET": "/run/n",
    "WATCHDOG_USEC": "1",
    "LISTEN_FDS": "1",
    "RAY_USE_TLS": "1",
}


def test_environment_is_scrubbed() -> None:
    """Nothing that Ray obeys or systemd means for the daemon reaches the session, but TLS."""
    environ = launch_spec(None, None, ENVIRON, mode=Mode.DRIVER).environ

    assert {
        "PATH": "/bin",
        "HOME": "/root",
        "RAY_USE_TLS": "1",
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "0",
    } == environ


@pytest.mark.parametrize(
    ("token", "mode", "expected"),
    [
        (None, Mode.DRIVER, "disabled"),
        ("t", Mode.DRIVER, "token"),
        (None, Mode.LOCAL, None),
        ("t", Mode.LOCAL, "token"),
    ],
)
def test_auth_mode_follows_the_token(token: str | None, mode: Mode, expected: str | None) -> None:
    """With a token it is used; a local cluster without one makes its own, so nothing is set."""
    environ = launch_spec(None, token, {}, mode=mode).environ

    assert expected == environ.get("RAY_AUTH_MODE")
    assert token == environ.get("RAY_AUTH_TOKEN")


def test_specs_differ_by_what_a_session_was_started_with() -> None:
    """Token, auth mode, TLS and interpreter make another session; anything else does not."""
    base = launch_spec(None, None, ENVIRON, mode=Mode.DRIVER)

    assert base == launch_spec(None, None, {**ENVIRON, "RAY_ADDRESS": "y:2"}, mode=Mode.DRIVER)
    assert base != launch_spec(None, "t", ENVIRON, mode=Mode.DRIVER)
    assert base != launch_spec(None, None, {**ENVIRON, "RAY_USE_TLS": "0"}, mode=Mode.DRIVER)
    assert base != launch_spec("/usr/bin/python3", None, ENVIRON, mode=Mode.DRIVER)


def test_upgraded_ray_makes_another_spec(tmp_path: object) -> None:
    """A new Ray beside the same interpreter is seen without running it."""
    import os
    from pathlib import Path

    root = Path(str(tmp_path))
    python = root / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    info = root / "lib" / "python3.11" / "site-packages" / "ray-2.60.0.dist-info"
    info.mkdir(parents=True)
    before = launch_spec(str(python), None, {}, mode=Mode.DRIVER)
    os.utime(info, ns=(1, 1))

    assert before != launch_spec(str(python), None, {}, mode=Mode.DRIVER)


def test_token_is_not_in_the_repr() -> None:
    """A spec that slips into a log line shows no token."""
    assert "secret" not in repr(launch_spec(None, "very-secret", {}, mode=Mode.DRIVER))


async def test_versions_of_our_own_interpreter() -> None:
    """Our own interpreter is asked without running anything."""
    versions = await interpreter_versions(launch_spec(None, None, {}, mode=Mode.DRIVER))

    assert ".".join(map(str, sys.version_info[:3])) == versions.python
    assert versions.ray is not None


async def test_versions_of_no_interpreter_are_unknown() -> None:
    """What cannot be asked has no known Ray; spawning it will say why."""
    spec = launch_spec("/nonexistent/python", None, {}, mode=Mode.DRIVER)

    assert (await interpreter_versions(spec)).ray is None
