"""Readers of logs and metrics: a journal that a test plays, a real one, rsyslog, and promtool."""

import fcntl
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import until

__all__ = (
    "FakeJournal",
    "Fields",
    "PrivateJournal",
    "fields_of",
    "private_journal",
    "promtool",
    "rsyslog",
)

Fields = list[tuple[str, bytes]]
"""What one entry has, in its order: a name may come twice."""


def fields_of(data: bytes) -> Fields:
    """Parse an entry of the native protocol; strict where the journal would only ignore."""
    found: Fields = []
    while data:
        line, end, data = data.partition(b"\n")
        assert end, f"not ended: {line!r}"
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", data)
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert (len(value), end) == (size, b"\n"), f"length of {name!r} is wrong"
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), f"no name of a field: {name!r}"
        found.append((name.decode(), value))
    return found


class FakeJournal:
    """A datagram socket where the journal's would be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = 0
        self.listen()

    def listen(self) -> None:
        """Be there, also again after `leave`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(5.0)

    def leave(self, *, path: bool = True) -> None:
        """Be gone; without `path` a socket stays that nobody serves."""
        self._socket.close()
        if path:
            self.path.unlink(missing_ok=True)

    def read(self) -> dict[str, bytes]:
        """Read one entry, the names of which must all differ."""
        data, files, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        if files:
            assert data == b"", "a file comes alone"
            self.files += 1
            data = _sealed(files[0])
        fields = fields_of(data)
        assert len(dict(fields)) == len(fields), fields
        return dict(fields)

    def drain(self) -> list[dict[str, bytes]]:
        """Read what waits."""
        found = []
        while select.select([self._socket], [], [], 0.0)[0]:
            found.append(self.read())
        return found


def _sealed(descriptor: int) -> bytes:
    """Read a file that cannot change any more, as the journal demands."""
    with open(descriptor, "rb") as file:
        seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        assert seals & wanted == wanted, "the file can still be changed"
        file.seek(0)
        return file.read()


class PrivateJournal:
    """A real journald with a /run of its own, and what it has been told."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.inside = ("nsenter", f"--mount=/proc/{pid}/ns/mnt")
        """What stands before a command that is to log there."""

    @property
    def streaming(self) -> tuple[str, ...]:
        """Likewise, with stdout and stderr in the journal, as systemd starts a unit."""
        script = 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$@"'
        return (*self.inside, "systemd-cat", "sh", "-c", script, "sh")

    def run(self, code: str) -> None:
        """Run Python there."""
        environ = {**os.environ, "PYTHONPATH": os.getcwd()}
        subprocess.run([*self.inside, sys.executable, "-c", code], check=True, env=environ)

    def find(self, *matches: str) -> list[dict[str, Any]]:
        """Ask journalctl for entries by field."""
        command = [*self.inside, "journalctl", "--no-pager", "--output=json", "--all", *matches]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in text.splitlines()]


_BOOT = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
test "$(stat -fc %T /run)" = tmpfs && test -z "$(ls -A /run)" || exit 1
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\nForwardToSyslog=no\\n' \
    >/run/systemd/journald.conf.d/test.conf
echo 0123456789abcdef0123456789abcdef >/run/machine-id
mount --bind /run/machine-id /etc/machine-id
exec /lib/systemd/systemd-journald
"""


@contextmanager
def private_journal() -> Iterator[PrivateJournal]:
    """A journald for the length of a block; neither its files nor its sockets are the machine's."""
    command = ["unshare", "--mount", "sh", "-euc", _BOOT]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            there = Path(f"/proc/{process.pid}/root/run/systemd/journal/socket")
            until(lambda: there.exists() or process.poll() is not None, 10.0, "a journal")
            assert process.poll() is None, "journald has ended"
            yield PrivateJournal(process.pid)
        finally:
            process.kill()


_RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="imfile")
module(load="mmjsonparse")
template(name="parsed" type="list") {{ property(name="$!all-json") constant(value="\\n") }}
ruleset(name="castrayd") {{
    action(type="mmjsonparse" cookie="")
    if $parsesuccess != "OK" then {{ action(type="omfile" file="{folder}/refused") stop }}
    action(type="omfile" file="{folder}/parsed" template="parsed")
    if {condition} then {{ action(type="omfile" file="{folder}/found" template="parsed") }}
}}
input(type="imfile" file="{log}" tag="castrayd" ruleset="castrayd")
"""


@contextmanager
def rsyslog(log: Path, condition: str) -> Iterator[Path]:
    """Have rsyslog take the JSON lines of a file, for the length of a block; yields a folder.

    It writes what it has parsed to `parsed`, what it could not to `refused`, and what fits the
    condition to `found`.
    """
    with tempfile.TemporaryDirectory(prefix="cd-rsyslog-", dir="/tmp") as name:
        folder = Path(name)
        text = _RSYSLOG.format(folder=folder, log=log, condition=condition)
        (folder / "conf").write_text(text)
        command = ["rsyslogd", "-n", "-f", str(folder / "conf"), "-i", str(folder / "pid")]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                yield folder
            finally:
                process.kill()


def promtool(*arguments: str, text: str | None = None) -> None:
    """Have Prometheus's own tool look at something; fails with what it complains of."""
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
