"""One child process: spawned, watched by a pidfd, killed with its whole group, reaped."""

import os
import signal
import socket
import subprocess
from collections.abc import Sequence

import anyio
import structlog

from castrayd.session.launch import LaunchSpec

__all__ = ("Child", "describe_exit")

log = structlog.get_logger("castrayd.session")

GONE_S = 5.0
KINDLY_S = 0.1
"""After its wire is closed a child has this long to end by itself."""


class Child:
    """A spawned session process, leader of its own group."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self.pid = popen.pid
        try:
            self._pidfd = os.pidfd_open(popen.pid)
        except OSError:  # no descriptor is left: what cannot be watched must not live
            popen.kill()
            popen.wait()
            raise

    @classmethod
    def spawn(cls, spec: LaunchSpec, wire: socket.socket) -> "Child":
        """Start the child with its end of the wire. Raises OSError.

        Called in the main thread: the kernel ties the child's life to the thread that forked it.
        No preexec_fn, user or group: those make a fork under gRPC's threads slow and unsafe.
        """
        popen = subprocess.Popen(  # noqa: S603  the interpreter is the operator's setting
            spec.command(wire.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=dict(spec.environ),
            pass_fds=(wire.fileno(),),
            start_new_session=True,
        )
        return cls(popen)

    @property
    def outputs(self) -> Sequence[tuple[str, int]]:
        """The names and descriptors of the child's output pipes."""
        pipes = (("stdout", self._popen.stdout), ("stderr", self._popen.stderr))
        return [(name, pipe.fileno()) for name, pipe in pipes if pipe is not None]

    async def wait(self) -> int:
        """Wait for the end; returns the exit code, or minus the signal. Does not reap."""
        await anyio.wait_readable(self._pidfd)
        return self._status()

    def _status(self) -> int:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return 0
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    async def end(self) -> None:
        """Kill the group and reap the child; to be called shielded. At most some 100 ms."""
        with anyio.move_on_after(KINDLY_S):
            await anyio.wait_readable(self._pidfd)
        self._kill_group()
        with anyio.move_on_after(GONE_S) as patience:  # SIGKILL cannot be refused, but put off:
            await anyio.wait_readable(self._pidfd)  # by a disk or a device that hangs
        if patience.cancelled_caught:
            message = f"a killed session does not end: pid {self.pid}"
            log.error(message)
        else:
            self._popen.wait()
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        os.close(self._pidfd)

    def _kill_group(self) -> None:
        """Kill before reaping: until then the group's number cannot belong to anybody else."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def describe_exit(status: int) -> tuple[str, str]:
    """Put an exit status into words: the code for machines, the text for people."""
    if status >= 0:
        return str(status), f"exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return name, f"was ended by {name}"
