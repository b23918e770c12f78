"""Having the kernel write to the disk early, so that the sync at the end has little left to do."""

from __future__ import annotations

import errno
import os

__all__ = ("write_back",)

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP}


def write_back(descriptor: int, offset: int, length: int) -> None:
    """Have a range of a file on its way to the disk; raises OSError.

    It starts to be written at once and is not waited for. Where the kernel has no such call it is
    synced, which costs a commit of the journal each time.
    """
    import ctypes  # noqa: PLC0415  what it makes cannot go to the cluster by value

    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except AttributeError:
        os.fdatasync(descriptor)
        return
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call(descriptor, offset, length, _WRITE) == 0:
        return
    code = ctypes.get_errno()
    if code not in _UNKNOWN:
        raise OSError(code, os.strerror(code))
    os.fdatasync(descriptor)
