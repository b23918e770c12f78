"""What the probes cost before they are used."""

import subprocess
import sys

_IMPORT_ALL = """
import importlib, pkgutil, sys
import castrayd.probe
for module in pkgutil.iter_modules(castrayd.probe.__path__):
    importlib.import_module(f"castrayd.probe.{module.name}")
print(sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "ray", "numpy"}))
"""


def test_importing_every_probe_loads_neither_grpc_nor_ray() -> None:
    """The daemon's start does not pay for gRPC, and nothing ever pays for ray."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
