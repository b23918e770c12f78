"""A wall clock that a test sets: for one process, while its monotonic clock is the machine's.

No namespace can do that: a time namespace moves the monotonic clocks alone. libfaketime can, but
opens a file in every reading, and shares a semaphore with all that its process starts.
This is a library of a few lines instead: it adds to the kernel's answer what stands in a page that
the test has mapped too, without a lock, and what its process starts has the machine's clock again.
"""

import mmap
import struct
import subprocess
import time
from pathlib import Path

__all__ = ("WallClock",)

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long none, *off_s = &none;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("TEST_WALL_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *mapped = mmap(0, sizeof *off_s, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) abort();
    off_s = mapped;
    close(file);
    unsetenv("LD_PRELOAD");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *off_s;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *told) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    return told ? *told = exact.tv_sec : exact.tv_sec;
}
"""


class WallClock:
    """The wall clock of whoever is started with `environ`, and of none of its children."""

    def __init__(self, folder: Path) -> None:
        library, file = folder / "wall_clock.so", folder / "wall_clock"
        command = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=_SOURCE.encode(), check=True)
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._mapped = mmap.mmap(opened.fileno(), 8)
        self.environ = {"LD_PRELOAD": str(library), "TEST_WALL_CLOCK": str(file)}
        self._off_s = 0

    def step(self, seconds: int) -> None:
        """Set it to so many seconds off the true time, at once."""
        self._off_s = seconds
        struct.pack_into("@q", self._mapped, 0, seconds)

    def now(self) -> float:
        """What it shows."""
        return time.time() + self._off_s
