"""The gRPC library, loaded once and late: its import costs more than the daemon's whole start.

The daemon calls `load_grpc` right after its socket answers, `peer` before its first call. Nothing
in this package imports grpc at module level.
"""

import importlib
from types import ModuleType
from typing import Any

import anyio.to_thread

__all__ = ("grpc_aio", "load_grpc")

_loaded: list[ModuleType] = []


async def load_grpc() -> None:
    """Import grpc in a thread, so that the loop goes on answering meanwhile. Idempotent.

    Called twice at once it waits twice: Python's own import lock keeps the import single.
    """
    if not _loaded:
        await anyio.to_thread.run_sync(importlib.import_module, "grpc.aio")
        _loaded.append(importlib.import_module("grpc"))


def grpc_aio() -> Any:  # noqa: ANN401  the library is untyped, and not imported by name here
    """Return the module `grpc`, with `grpc.aio` loaded. Call `load_grpc` first."""
    return _loaded[0]
