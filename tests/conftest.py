"""What every test has: means that are looked for, and skips that say what is missing."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.ray import RayHead, ray_head

settings.register_profile("castrayd", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("castrayd")


MEANS = ("ray", "lab", "systemd")
"""What a test may need and a machine may lack, each a mark."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", default="", help="means that must be there: ray,lab,systemd")
    parser.addoption("--long", action="store_true", help="run the slow forms too")
    parser.addoption("--shard", default="1/1", help="K/N: of the files every N-th, from the K-th")


_TOOLS = {
    "lab": (
        "ip", "ss", "ps", "findmnt", "unshare", "nsenter", "setpriv", "openssl",
        "journalctl", "/lib/systemd/systemd-journald", "rsyslogd", "promtool", "cc",
    ),
    "systemd": (
        "ip", "unshare", "nsenter", "setpriv", "useradd", "/lib/systemd/systemd", "systemctl",
        "systemd-analyze", "systemd-sysusers", "journalctl", "man",
    ),
}  # fmt: skip


def _missing(mark: str) -> str | None:
    """Why tests of a mark cannot run here; None when they can."""
    if mark == "ray" and importlib.util.find_spec("ray") is None:
        return "ray is not installed"
    if mark in _TOOLS and os.geteuid() != 0:
        return "namespaces need root"
    if mark in _TOOLS:
        missing = [name for name in _TOOLS[mark] if not shutil.which(name)]
        return f"not installed: {', '.join(missing)}" if missing else None
    return None


def _keep_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the files of other shards; whole files, for they share clusters."""
    number, count = map(int, config.getoption("--shard").split("/"))
    mine = set(sorted({item.path for item in items})[number - 1 :: count])
    left_out = [item for item in items if item.path not in mine]
    if left_out:
        items[:] = [item for item in items if item.path in mine]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    required = set(filter(None, config.getoption("--require").split(",")))
    if unknown := required - set(MEANS):
        pytest.exit(f"--require: no such means: {', '.join(sorted(unknown))}", returncode=4)
    _keep_shard(config, items)
    for item in items:
        for mark in MEANS:
            reason = _missing(mark) if item.get_closest_marker(mark) else None
            if reason and mark in required:
                pytest.exit(f"--require={mark}: {reason}", returncode=1)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="a slow form: run with --long"))


def _python_of(request: pytest.FixtureRequest, variable: str, what: str) -> str:
    python = os.environ.get(variable)
    if python:
        return python
    if "ray" in request.config.getoption("--require"):
        pytest.fail(f"{variable} must name {what}")
    pytest.skip(f"{variable} names no {what}")


@pytest.fixture(scope="session")
def other_python(request: pytest.FixtureRequest) -> str:
    """A Python of another version than ours, with the same Ray."""
    return _python_of(request, "CASTRAY_TEST_OTHER_PYTHON", "Python of another version, with ray")


@pytest.fixture(scope="session")
def cluster_python(request: pytest.FixtureRequest) -> str:
    """A Python of our version with Ray and without castrayd."""
    return _python_of(request, "CASTRAY_TEST_CLUSTER_PYTHON", "Python with ray, without castrayd")


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """A real head, shared by a module; a test that breaks it starts it again."""
    with ray_head() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_ray_here() -> Iterator[None]:
    """The tests' own process never imports ray either: what they see, the daemon can see."""
    yield
    assert "ray" not in sys.modules
