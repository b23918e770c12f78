"""The gRPC library, loaded once and late: its import costs more than the daemon's whole start."""

import importlib
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread

__all__ = ("grpc_aio", "load_grpc")

_loaded: list[ModuleType] = []
_lock = anyio.Lock()


async def load_grpc() -> None:
    """Import grpc in a thread, so that the loop goes on answering meanwhile. Idempotent."""
    async with _lock:
        if not _loaded:
            _loaded.append(await anyio.to_thread.run_sync(importlib.import_module, "grpc.aio"))


def grpc_aio() -> Any:  # noqa: ANN401  the library is untyped, and not imported by name here
    """Return the module `grpc`, with `grpc.aio` loaded. Call `load_grpc` first."""
    return importlib.import_module("grpc")
