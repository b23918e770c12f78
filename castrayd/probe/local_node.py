"""The phase `local_node`: is there a raylet of that cluster on this host, and may we use it?

A Ray driver needs one. Ray itself waits a minute for it and cannot say why it did not find it;
/proc tells at once: a raylet's command line carries its cluster, node and socket. Called by
`ladder`, `returned`, `discovery` and `raylet_check`.
"""

import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Final

import anyio

from castrayd.errors import AttachError, ErrorType, Fault, Phase
from castrayd.probe.trust import is_trusted
from castrayd.threads import READS

__all__ = (
    "LocalNode",
    "Raylet",
    "find_local_node",
    "is_own",
    "raylets",
    "run_as",
    "scan",
    "try_socket",
    "usable",
)

POLL_S: Final = 0.1
"""A fresh head's raylet comes about two seconds after its GCS."""


@dataclass(frozen=True, slots=True)
class Raylet:
    """A process that calls itself a raylet. Its owner decides whether that is to be believed."""

    pid: int
    uid: int
    node_id: str
    gcs_address: str
    cluster_id: str
    """Hex."""
    socket: str
    verified: bool = False
    """The kernel says that its program is a raylet; False where we may not ask."""

    @property
    def believed(self) -> bool:
        """Whether it may name a place that is shown the token.

        Owner and command line are not enough: a stranger may run sudo and call it `raylet`. A
        raylet of root is hence believed by root alone; nobody else could use its socket either.
        """
        return self.verified and is_trusted(self.uid)


@dataclass(frozen=True, slots=True)
class LocalNode:
    """The raylet that a driver on this host will use."""

    pid: int
    node_id: str
    socket: str
    cluster_id: str


def raylets(proc: str = "/proc") -> list[Raylet]:
    """List the raylets on this host, as far as their command lines can be read. Some ms."""
    found = (_raylet(proc, name) for name in os.listdir(proc) if name.isdigit())  # noqa: PTH208
    return [raylet for raylet in found if raylet is not None]


async def scan() -> list[Raylet]:
    """List the raylets from a thread: a host may have thousands of processes."""
    return await READS.run(raylets)


def _raylet(proc: str, pid: str) -> Raylet | None:
    try:
        with open(f"{proc}/{pid}/cmdline", "rb") as file:  # noqa: PTH123  a hot loop over all pids
            words = file.read().split(b"\0")
        if words[0].rpartition(b"/")[2] != b"raylet":
            return None
        uid = os.stat(f"{proc}/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return None  # it ended meanwhile, or is hidden from us
    program = _program(proc, pid)
    if program not in {None, "raylet"}:
        return None  # anybody may call a process so
    flags = _flags(words)
    return Raylet(
        int(pid),
        uid,
        flags.get("node_id", ""),
        flags.get("gcs-address", ""),
        flags.get("cluster-id", ""),
        flags.get("raylet_socket_name", ""),
        program is not None,
    )


def _program(proc: str, pid: str) -> str | None:
    """Return what the process runs: the kernel's word, for our own processes and for root."""
    try:
        program = os.readlink(f"{proc}/{pid}/exe")  # noqa: PTH115  a Path adds nothing
    except OSError:
        return None
    return program.removesuffix(" (deleted)").rpartition("/")[2]


def _flags(words: list[bytes]) -> dict[str, str]:
    """Read `--name=value`; Ray puts some only into the command line of the raylet's workers."""
    flags: dict[str, str] = {}
    for word in b" ".join(words[1:]).decode(errors="replace").split():
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            flags.setdefault(name[2:], value)
    return flags


async def find_local_node(
    cluster_id: str | None,
    gcs_address: str,
    *,
    timeout_s: float,
    poll_s: float = POLL_S,
    believed: bool = False,
) -> LocalNode:
    """Wait for a raylet of the cluster on this host whose socket we may write to.

    Matches by `cluster_id` (hex); where the head did not tell it, by the GCS address on the
    raylet's command line. With `believed` only those that are count.

    Raises `AttachError` (`no_local_node`, `local_node_forbidden`).
    """
    seen: list[Raylet] = []
    with anyio.move_on_after(timeout_s):
        while True:
            seen = [raylet for raylet in await scan() if raylet.believed or not believed]
            node = usable(seen, cluster_id, gcs_address)
            if node is not None:
                return node
            await anyio.sleep(poll_s)
    raise AttachError(_absent(seen, cluster_id, gcs_address, timeout_s))


def usable(seen: list[Raylet], cluster_id: str | None, gcs_address: str) -> LocalNode | None:
    """Pick a raylet of the cluster that accepts connections.

    Raises `AttachError` (`local_node_forbidden`) when there is one and none is ours to use.
    """
    forbidden: Raylet | None = None
    for raylet in seen:
        if not _matches(raylet, cluster_id, gcs_address):
            continue
        verdict = try_socket(raylet)
        if verdict is None:
            return LocalNode(raylet.pid, raylet.node_id, raylet.socket, raylet.cluster_id)
        if verdict is PermissionError:
            forbidden = raylet
    if forbidden is not None:
        raise AttachError(_forbidden(forbidden))
    return None


def _matches(raylet: Raylet, cluster_id: str | None, gcs_address: str) -> bool:
    if cluster_id is not None and raylet.cluster_id:
        return raylet.cluster_id == cluster_id
    return _same_place(raylet.gcs_address, gcs_address)


def _same_place(one: str, other: str) -> bool:
    """Whether two addresses name one GCS. Ray rewrites a loopback address to a routable one."""
    if one == other:
        return True
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    return port == other_port and is_own(host) and is_own(other_host)


def is_own(host: str) -> bool:
    """Whether an IP address is this host's: only then may a socket be bound to it."""
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)  # a name would be resolved, and that may take for ever
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


def try_socket(raylet: Raylet) -> type[OSError] | None:
    """Connect as the driver will: one that starts refuses, one of another user forbids.

    Returns the kind of error, None for none.

    A process that names a socket of somebody else's is none: the kernel says who listens.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # noqa: FBT003  the socket module's form
        try:
            sock.connect(raylet.socket)
        except PermissionError:
            return PermissionError
        except BlockingIOError:
            return None  # its queue is full: it lives, and may be used
        except OSError:
            return OSError
        told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return None if _UCRED.unpack(told)[0] in {raylet.pid, _HIDDEN_PID} else OSError


_UCRED: Final = struct.Struct("3i")
_HIDDEN_PID: Final = 0
"""Of a process outside of our PID namespace."""


def _forbidden(raylet: Raylet) -> Fault:
    message = f"{raylet.socket} of the raylet {raylet.pid} is not writable by uid {os.geteuid()}"
    hint = run_as(raylet.uid)
    return Fault.of(
        ErrorType.LOCAL_NODE_FORBIDDEN, Phase.LOCAL_NODE, message, code="EACCES", hint=hint
    )


def run_as(uid: int) -> str:
    """Say what to do where a raylet is another user's."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"Run castrayd as uid {uid}, the user that runs the raylet."
    command = f"castrayd install-units --run-as {name}"
    return f"Run castrayd as the raylet's user: `{command}`, then `systemctl restart castrayd`."


def _absent(
    seen: list[Raylet], cluster_id: str | None, gcs_address: str, timeout_s: float
) -> Fault:
    wanted = f"cluster {cluster_id}" if cluster_id else gcs_address
    starting = [raylet for raylet in seen if _matches(raylet, cluster_id, gcs_address)]
    message = f"no raylet of {wanted} on this host within {timeout_s} s"
    if starting:
        message = f"the raylet {starting[0].pid} of {wanted} accepted nothing within {timeout_s} s"
    elif seen:
        message += f"; {len(seen)} of other clusters are here"
    hint = f"Run `ray start --address={gcs_address}` here; in a container share the PID namespace."
    return Fault.of(ErrorType.NO_LOCAL_NODE, Phase.LOCAL_NODE, message, hint=hint)
