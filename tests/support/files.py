"""Files of tests: made, hashed, sent as transfers, and waited for."""

import hashlib
import os
from typing import Any

import anyio

from tests.support.daemon import Daemon

__all__ = ("ACTIVE", "MIB", "ended", "made", "sha256_of")

MIB = 2**20
ACTIVE = ("queued", "running", "interrupted")


def made(path: str, size: int) -> str:
    """Make a file that no chunk of repeats; returns its sha256."""
    data = os.urandom(min(size, 8 * MIB))
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for start in range(0, size, len(data) or 1):
            part = (start.to_bytes(8, "big") + data[8:])[: size - start]
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def ended(daemon: Daemon, transfer_id: str, timeout_s: float = 60) -> Any:
    """Wait until a transfer has ended; returns it."""
    one = None
    with anyio.move_on_after(timeout_s):
        while True:
            one = await daemon.get(f"/api/transfers/{transfer_id}")
            if one["state"] not in ACTIVE:
                return one
            await anyio.sleep(0.05)
    raise AssertionError(f"not ended: {one}")
