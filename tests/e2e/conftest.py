"""A machine with castrayd installed as an administrator would: from its wheel, with its units."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.administrator import HEAD, install_units
from tests.support.machine import Machine, machine

_VENV = """
useradd --create-home ray
useradd --create-home reader
useradd --create-home writer
useradd --create-home stranger
python=$(readlink -f {python})
for path in $python {packages}; do
  while [ $path != / ]; do path=$(dirname $path); chmod o+x $path; done
done
$python -m venv --without-pip /opt/castrayd
echo {packages} > $(echo /opt/castrayd/lib/python3*/site-packages)/cluster.pth
"""


def build_wheel(folder: Path, version: str | None = None) -> Path:
    """Build the wheel of this checkout; with a version, as if it were that."""
    source = Path.cwd()
    if version is not None:
        source = folder / "source"
        source.mkdir()
        subprocess.run(["cp", "-r", *_SOURCES, source], check=True)
        init = source / "castrayd/__init__.py"
        lines = init.read_text().splitlines()
        changed = [f'__version__ = "{version}"' if "__version__ =" in line else line
                   for line in lines]  # fmt: skip
        init.write_text("\n".join(changed))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", folder, source],
        check=True,
    )  # fmt: skip
    return next(path for path in folder.glob("*.whl") if version is None or version in path.name)


_SOURCES = ("castrayd", "systemd", "pyproject.toml", "README.md", "LICENSE")


def install(host: Machine, wheel: Path) -> None:
    """Install a wheel as pip does, into the machine's own environment."""
    host.do(
        sys.executable, "-m", "pip", "--python", "/opt/castrayd/bin/python", "install", "-q",
        "--no-deps", "--no-index", "--ignore-installed", "--root-user-action=ignore", str(wheel),
    )  # fmt: skip


@pytest.fixture(scope="session")
def wheel() -> Iterator[Path]:
    """The wheel of this checkout; not below /tmp, which a machine hides."""
    with tempfile.TemporaryDirectory(prefix="castrayd-wheel-", dir="/var/tmp") as folder:
        yield build_wheel(Path(folder))


@pytest.fixture(scope="module")
def host(wheel: Path) -> Iterator[Machine]:
    """A machine with castrayd installed, and its units; not yet started."""
    with machine() as made:
        prefix = Path(sys.prefix)
        packages = next(prefix.glob("lib/python3*/site-packages"))
        made.sh(_VENV.format(python=sys.executable, packages=packages))
        install(made, wheel)
        yield made


@pytest.fixture(scope="module")
def service(host: Machine) -> Machine:
    """The machine with the service installed for its raylet's user; not started."""
    install_units(host, "--run-as", "ray")
    host.write("/etc/castrayd/environment", f"RAY_ADDRESS={HEAD}\n")
    return host
