"""A machine with a real systemd as its first process, over a copy-on-write view of this one.

It has files, processes, names, network and users of its own; whatever it does to its disk is in
memory, and gone with it. Needs root.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import kill, until

__all__ = ("BOOT", "Machine", "machine")

BOOT_S = 60.0

BOOT = r"""
set -e
mount --make-rprivate /
W=$1
mount -t tmpfs -o mode=755,size=6g tmpfs "$W"
mkdir "$W/upper" "$W/work" "$W/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$W/upper,workdir=$W/work" "$W/root"
R="$W/root"
mount -t proc proc "$R/proc"
mount --rbind /sys "$R/sys"
# of its own: systemd makes links and folders there
mount -t tmpfs -o mode=755 tmpfs "$R/dev"
for node in null zero full random urandom tty; do
  touch "$R/dev/$node"
  mount --bind "/dev/$node" "$R/dev/$node"
done
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
ln -s /proc/self/fd/0 "$R/dev/stdin"
ln -s /proc/self/fd/1 "$R/dev/stdout"
ln -s /proc/self/fd/2 "$R/dev/stderr"
mount -t tmpfs -o mode=755 tmpfs "$R/run"
mount -t tmpfs -o mode=1777,size=4g tmpfs "$R/tmp"
mount -t tmpfs -o mode=1777,size=3g tmpfs "$R/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"
@GROUPS@
# systemd's tmpfiles empty both: they must be nobody else's, and an overlay must be the root
for own in tmp run dev/shm; do [ "$(stat -f -c %T "$R/$own")" = tmpfs ]; done
[ "$(stat -c %d "$R/tmp")" != "$(stat -c %d /tmp)" ]
[ "$(stat -f -c %T "$R")" = overlayfs ]
ip link set lo up
echo machine > "$R/etc/hostname"
mkdir -p "$R/run/lock" "$R/host"
cd "$R"
pivot_root . host
cd /
umount -l /host
mount --make-rshared /  # as it is where systemd is no container's: credentials arrive by it
export container=test
exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0
"""
"""Its one argument is a folder to work in."""

_APART = ("unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net", "--fork",
          "--kill-child")  # fmt: skip


class Machine:
    """One booted machine; `run` does something on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._hierarchies = list(_hierarchies())
        self.since = ""
        """Where what is asked of the journal begins: a moment, or its beginning."""

    def boot(self, boot: str = BOOT) -> None:
        """Boot; returns when its systemd has come up."""
        join = "; ".join(one.join(self._folder.name) for one in self._hierarchies)
        groups = "\n".join(one.mount() for one in self._hierarchies)
        script = ["sh", "-c", boot.replace("@GROUPS@", groups), "boot", str(self._folder)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "CASTRAYD_"))}
        with (self._folder.parent / f"{self._folder.name}.log").open("wb") as out:
            self._outer = subprocess.Popen(
                ["sh", "-ec", f'{join}; exec "$@"', "join", *_APART, *script],
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        until(self._first, 10, "a first process of the machine")
        until(self._is_up, BOOT_S, "systemd as the first process")

    def _first(self) -> bool:
        self._still_boots()
        assert self._outer is not None
        if _name(self._outer.pid) != "unshare":
            return False
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text()
        self._pid = int(children.split()[0]) if children.split() else 0
        return self._pid > 0

    def _is_up(self) -> bool:
        self._still_boots()
        if _name(self._pid) != "systemd":
            return False
        return self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def _still_boots(self) -> None:
        assert self._outer is not None
        assert self._outer.poll() is None, f"has ended before systemd began: {self.said()}"

    def said(self) -> str:
        """What booting has said."""
        return (self._folder.parent / f"{self._folder.name}.log").read_text()

    def run(
        self, *command: str, user: str | None = None, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command there, as root or as another user; returns its result."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-n", "-C"]
        if user is not None:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": f"/home/{user}" if user else "/root",
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            [*enter, *command], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout_s, check=False, cwd="/",
        )  # fmt: skip

    def do(self, *command: str, user: str | None = None, timeout_s: float = 60) -> str:
        """Run a command there that must succeed; returns what it says."""
        done = self.run(*command, user=user, timeout_s=timeout_s)
        assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def sh(self, script: str, **options: float) -> str:
        """Run a shell script there that must succeed."""
        return self.do("sh", "-euc", script, **options)  # type: ignore[arg-type]

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        self.sh(f"mkdir -p {Path(path).parent}; printf %s {shlex.quote(text)} > {path}")

    def end(self) -> None:
        """End it with everything on it."""
        if self._outer is None:
            return
        if self._pid:
            kill(self._pid)
        self._outer.kill()
        self._outer.wait()
        until(lambda: not Path(f"/proc/{self._pid}").exists(), 10, "the machine's end")
        for hierarchy in self._hierarchies:
            hierarchy.remove(self._folder.name)


def _name(pid: int) -> str | None:
    """What a process runs; None when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


@dataclass(frozen=True)
class _Hierarchy:
    """One hierarchy of control groups, in which the machine has a group that it takes for all."""

    mounted: Path
    kind: str
    options: str

    def join(self, name: str) -> str:
        """Return the shell's way into a group of that name."""
        group = shlex.quote(str(self.mounted / name))
        fill = "for k in cpus mems; do cat {0}/../cpuset.$k > {0}/cpuset.$k; done; "
        made = f"mkdir -p {group}; " + (fill.format(group) if self.options == "cpuset" else "")
        return f"{made}echo $$ > {group}/cgroup.procs"

    def mount(self) -> str:
        """Return how it is mounted on the machine, so that it begins with the machine's group."""
        options = f"-o {self.options} " if self.options else ""
        return (
            f'mkdir -p "$R{self.mounted}"; mount -t {self.kind} {options}cgroup "$R{self.mounted}"'
        )

    def remove(self, name: str) -> None:
        """Remove the group and what is left in it."""
        for folder, _, _ in os.walk(self.mounted / name, topdown=False):
            Path(folder).rmdir()


def _hierarchies() -> Iterator[_Hierarchy]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()
        if kind not in {"cgroup", "cgroup2"}:
            continue
        words = [word for word in options.split(",") if word not in {"rw", "xattr", "nsdelegate"}]
        named = [f"none,{word}" for word in words if word.startswith("name=")]
        known = ",".join(named or words) if kind == "cgroup" else ""
        yield _Hierarchy(Path(left.split()[4]), kind, known)


@contextlib.contextmanager
def machine(boot: str = BOOT) -> Iterator[Machine]:
    """A booted machine that sees this interpreter and checkout; leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="castrayd-machine-", dir="/var/tmp"))
    made = Machine(folder)
    try:
        made.boot(boot)
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)


if __name__ == "__main__":  # to look around by hand
    with machine() as one:
        sys.stdout.write(one.do("systemctl", "--no-pager", "status"))
        sys.stdout.write(f"nsenter -t {one._pid} -m -p -u -i -n -C\n")
        input()
