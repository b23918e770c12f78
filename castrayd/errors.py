"""The closed set of errors of an attachment; `refusals` has those of requests and recipients.

Imports nothing of ours, so that every layer can name an error without a cycle. The README's
table, the hints in the API and the retry policy of the core all read `ERROR_CLASSES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = (
    "ANY_PHASE",
    "ERROR_CLASSES",
    "AlreadyRunningError",
    "AttachError",
    "CastraydError",
    "ErrorClass",
    "ErrorType",
    "Fault",
    "InvalidTransitionError",
    "Phase",
    "Retry",
    "SettingsError",
    "SettingsProblem",
    "described",
    "redacted",
)


class Phase(StrEnum):
    """Where in the life of an attachment something happened, in the order of an attempt."""

    DISCOVER = "discover"
    RESOLVE = "resolve"
    TCP = "tcp"
    HEALTH = "health"
    IDENTITY = "identity"
    LOCAL_NODE = "local_node"
    SPAWN = "spawn"
    INIT = "init"
    NODES = "nodes"
    ATTACHED = "attached"


class Retry(StrEnum):
    """Who can mend a fault: time (`transient`) or a person (`operator`)."""

    TRANSIENT = "transient"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """What castrayd knows of one class of fault."""

    phases: tuple[Phase, ...]
    """The phases in which it can appear."""
    retry: Retry
    meaning: str
    """One line: what was seen."""
    hint: str
    """What the operator can do about it."""


class ErrorType(StrEnum):
    """The closed set of attachment faults; the value is the `type` of the API and the logs."""

    ADDRESS_INVALID = "address_invalid"
    CONFIG_INVALID = "config_invalid"
    NAMESPACE_INVALID = "namespace_invalid"
    DEPENDENCY_MISSING = "dependency_missing"
    NO_CLUSTER_FOUND = "no_cluster_found"
    DNS_FAILURE = "dns_failure"
    DNS_TIMEOUT = "dns_timeout"
    TCP_REFUSED = "tcp_refused"
    TCP_TIMEOUT = "tcp_timeout"
    TCP_RESET = "tcp_reset"
    HOST_UNREACHABLE = "host_unreachable"
    NETWORK_UNREACHABLE = "network_unreachable"
    TLS_FAILURE = "tls_failure"
    NOT_RAY = "not_ray"
    HEALTH_TIMEOUT = "health_timeout"
    GCS_NOT_SERVING = "gcs_not_serving"
    CLIENT_SERVER_UNAVAILABLE = "client_server_unavailable"
    AUTH_MISSING = "auth_missing"
    AUTH_REJECTED = "auth_rejected"
    VERSION_MISMATCH = "version_mismatch"
    NO_LOCAL_NODE = "no_local_node"
    LOCAL_NODE_FORBIDDEN = "local_node_forbidden"
    SESSION_SPAWN_FAILED = "session_spawn_failed"
    INIT_TIMEOUT = "init_timeout"
    INIT_FAILED = "init_failed"
    CLUSTER_NOT_READY = "cluster_not_ready"
    CLIENT_SERVER_START_FAILED = "client_server_start_failed"
    NODE_MAP_TIMEOUT = "node_map_timeout"
    NODE_MAP_EMPTY = "node_map_empty"
    SESSION_EXITED = "session_exited"
    SESSION_UNRESPONSIVE = "session_unresponsive"
    CONTROL_PLANE_LOST = "control_plane_lost"
    CONTROL_PLANE_TIMEOUT = "control_plane_timeout"
    CLUSTER_REPLACED = "cluster_replaced"
    LOCAL_NODE_LOST = "local_node_lost"
    NODES_BELOW_MINIMUM = "nodes_below_minimum"
    CASTERS_MISSING = "casters_missing"
    OTHER_CLUSTER = "other_cluster"
    LOCAL_FALLBACK = "local_fallback"
    INTERNAL = "internal"


ANY_PHASE: Final = tuple(Phase)

_T, _O = Retry.TRANSIENT, Retry.OPERATOR

# fmt: off
ERROR_CLASSES: Final[Mapping[ErrorType, ErrorClass]] = MappingProxyType({
    ErrorType.ADDRESS_INVALID: ErrorClass(
        ANY_PHASE, _O,
        "The address is not one that castrayd can attach to.",
        "Use host:port, the GCS port of the head (6379 by default); check RAY_ADDRESS first.",
    ),
    ErrorType.CONFIG_INVALID: ErrorClass(
        ANY_PHASE, _O,
        "A setting is missing, unknown or out of range.",
        "Run `castrayd check-config` and mend what it names.",
    ),
    ErrorType.NAMESPACE_INVALID: ErrorClass(
        ANY_PHASE, _O,
        "Ray does not accept the namespace.",
        "Set ray.namespace to a string that is not empty.",
    ),
    ErrorType.DEPENDENCY_MISSING: ErrorClass(
        ANY_PHASE, _O,
        "The session's interpreter lacks a package that it needs.",
        "Install ray (for ray:// addresses ray[client]) in the interpreter of session.python.",
    ),
    ErrorType.NO_CLUSTER_FOUND: ErrorClass(
        (Phase.DISCOVER,), _T,
        "No address is configured and none was discovered.",
        "Set RAY_ADDRESS or ray.address, start Ray on this host, or allow a local start.",
    ),
    ErrorType.DNS_FAILURE: ErrorClass(
        (Phase.RESOLVE,), _T,
        "The host name of the address does not resolve.",
        "Check the spelling, /etc/hosts and the resolver: `getent hosts NAME`.",
    ),
    ErrorType.DNS_TIMEOUT: ErrorClass(
        (Phase.RESOLVE,), _T,
        "The resolver did not answer in time.",
        "Check that the name servers in /etc/resolv.conf answer; an IP address avoids them.",
    ),
    ErrorType.TCP_REFUSED: ErrorClass(
        (Phase.TCP,), _T,
        "The host answered that nothing listens on the port.",
        "Start the head (`ray start --head --port=PORT`) or correct the port.",
    ),
    ErrorType.TCP_TIMEOUT: ErrorClass(
        (Phase.TCP,), _T,
        "The connection was neither accepted nor refused in time.",
        "Look for a firewall that drops packets, a dead host, or a listener that is overrun.",
    ),
    ErrorType.TCP_RESET: ErrorClass(
        (Phase.TCP, Phase.HEALTH), _T,
        "The connection was accepted and then reset.",
        "Look for a proxy or load balancer without a backend, or a head that is just ending.",
    ),
    ErrorType.HOST_UNREACHABLE: ErrorClass(
        (Phase.TCP,), _T,
        "No route leads to the host, or it does not answer on its link.",
        "Check that the host is up and on the network: `ip route get ADDRESS`.",
    ),
    ErrorType.NETWORK_UNREACHABLE: ErrorClass(
        (Phase.TCP,), _T,
        "This host has no route to the network of the address.",
        "Check this host's own links and routes: `ip addr`, `ip route`.",
    ),
    ErrorType.TLS_FAILURE: ErrorClass(
        (Phase.HEALTH,), _O,
        "One side speaks TLS and the other does not, or a certificate is not trusted.",
        "Set RAY_USE_TLS and the same CA on both sides.",
    ),
    ErrorType.NOT_RAY: ErrorClass(
        (Phase.HEALTH, Phase.ATTACHED), _O,
        "Something that is not a Ray head listens there.",
        "Use the GCS port (6379 by default), not the dashboard (8265) or another service.",
    ),
    ErrorType.HEALTH_TIMEOUT: ErrorClass(
        (Phase.HEALTH,), _T,
        "The port accepts connections and then stays silent.",
        "Look whether gcs_server on the head is stopped, swapped out or overloaded.",
    ),
    ErrorType.GCS_NOT_SERVING: ErrorClass(
        (Phase.HEALTH,), _T,
        "The GCS answers that it is not serving.",
        "Wait for the head to finish starting; else read gcs_server.out there.",
    ),
    ErrorType.CLIENT_SERVER_UNAVAILABLE: ErrorClass(
        (Phase.HEALTH,), _T,
        "No Ray Client server answers at the address.",
        "Install ray[client] on the head, and use its client port (10001 by default).",
    ),
    ErrorType.AUTH_MISSING: ErrorClass(
        (Phase.IDENTITY,), _O,
        "The cluster demands a token and none was found here.",
        "Put the cluster's token into ray.token_file, RAY_AUTH_TOKEN or ~/.ray/auth_token.",
    ),
    ErrorType.AUTH_REJECTED: ErrorClass(
        (Phase.IDENTITY, Phase.ATTACHED), _O,
        "The cluster does not accept our token.",
        "Replace the token by the cluster's own; the message names where ours was found.",
    ),
    ErrorType.VERSION_MISMATCH: ErrorClass(
        (Phase.IDENTITY, Phase.INIT), _O,
        "Ray or Python differ between the session and the cluster.",
        "Point session.python at an interpreter with the cluster's Ray and Python versions.",
    ),
    ErrorType.NO_LOCAL_NODE: ErrorClass(
        (Phase.LOCAL_NODE,), _T,
        "No raylet of that cluster runs on this host.",
        "Run `ray start --address=HOST:PORT` here; in a container share the PID namespace.",
    ),
    ErrorType.LOCAL_NODE_FORBIDDEN: ErrorClass(
        (Phase.LOCAL_NODE,), _O,
        "The raylet on this host belongs to another user, and its socket is not writable by us.",
        "Run castrayd as the raylet's user: `castrayd install-units --run-as USER`; restart it.",
    ),
    ErrorType.SESSION_SPAWN_FAILED: ErrorClass(
        (Phase.SPAWN,), _T,
        "The session's process could not be started or did not greet.",
        "Check session.python, free memory and the limit of processes.",
    ),
    ErrorType.INIT_TIMEOUT: ErrorClass(
        (Phase.INIT,), _T,
        "ray.init did not return in time.",
        "Look at the raylet on this host (raylet.out): it may hang or be overloaded.",
    ),
    ErrorType.INIT_FAILED: ErrorClass(
        (Phase.INIT,), _T,
        "ray.init raised an error.",
        "Read the message; the head's and the raylet's logs tell their side.",
    ),
    ErrorType.CLUSTER_NOT_READY: ErrorClass(
        (Phase.INIT,), _T,
        "The head answers but has not finished starting.",
        "Wait; if it lasts, read gcs_server.out on the head.",
    ),
    ErrorType.CLIENT_SERVER_START_FAILED: ErrorClass(
        (Phase.INIT,), _T,
        "The head could not start a server for this Ray Client.",
        "Read ray_client_server_*.err on the head; its ports 23000-23999 and memory.",
    ),
    ErrorType.NODE_MAP_TIMEOUT: ErrorClass(
        (Phase.NODES,), _T,
        "The list of nodes did not arrive in time.",
        "The GCS may be overloaded: look at its CPU and memory on the head.",
    ),
    ErrorType.NODE_MAP_EMPTY: ErrorClass(
        (Phase.NODES,), _T,
        "The cluster lists no node that is alive.",
        "Start a raylet: `ray start --address=HOST:PORT`.",
    ),
    ErrorType.SESSION_EXITED: ErrorClass(
        (Phase.INIT, Phase.NODES, Phase.ATTACHED), _T,
        "The session's process ended by itself or was killed.",
        "Read its last words in the message; -9 is often the kernel's memory killer.",
    ),
    ErrorType.SESSION_UNRESPONSIVE: ErrorClass(
        (Phase.INIT, Phase.NODES, Phase.ATTACHED), _T,
        "The session, or the raylet it depends on, does not answer in time.",
        "Look for a stopped process or a host short of memory or CPU.",
    ),
    ErrorType.CONTROL_PLANE_LOST: ErrorClass(
        (Phase.ATTACHED,), _T,
        "The connection to the GCS broke and it does not answer any more.",
        "Look on the head whether gcs_server still runs.",
    ),
    ErrorType.CONTROL_PLANE_TIMEOUT: ErrorClass(
        (Phase.ATTACHED,), _T,
        "The GCS is silent: checks go unanswered.",
        "Look for a partition, or a gcs_server that is stopped or overloaded.",
    ),
    ErrorType.CLUSTER_REPLACED: ErrorClass(
        (Phase.INIT, Phase.ATTACHED), _T,
        "Another cluster answers at the same address.",
        "Nothing to do: a new session joins it. Work of the old cluster is gone.",
    ),
    ErrorType.LOCAL_NODE_LOST: ErrorClass(
        (Phase.ATTACHED,), _T,
        "The raylet on this host ended.",
        "Start it again: `ray start --address=HOST:PORT`; raylet.out tells why it ended.",
    ),
    ErrorType.NODES_BELOW_MINIMUM: ErrorClass(
        (Phase.ATTACHED,), _T,
        "Fewer nodes are alive than ray.min_nodes asks for.",
        "Start the missing nodes, or lower ray.min_nodes.",
    ),
    ErrorType.CASTERS_MISSING: ErrorClass(
        (Phase.ATTACHED,), _T,
        "Required casting nodes are not ready.",
        "See `castrayctl node list` for the reason of each.",
    ),
    ErrorType.OTHER_CLUSTER: ErrorClass(
        (Phase.ATTACHED,), _T,
        "Attached to another cluster than before, through a lower candidate.",
        "Bring the preferred cluster back; castrayd returns to it by itself.",
    ),
    ErrorType.LOCAL_FALLBACK: ErrorClass(
        (Phase.ATTACHED,), _T,
        "The configured cluster is unreachable, so a local one runs in its place.",
        "Bring the configured cluster back; castrayd returns to it by itself.",
    ),
    ErrorType.INTERNAL: ErrorClass(
        ANY_PHASE, _T,
        "A fault of castrayd itself.",
        "Report it with the log line and its stack.",
    ),
})
# fmt: on


@dataclass(frozen=True, slots=True)
class Fault:
    """One classified fault, as status, events and logs show it. Build it with `Fault.of`."""

    type: ErrorType
    phase: Phase
    message: str
    retry: Retry
    hint: str
    code: str | None = None
    """errno name, gRPC status, exit code or signal, where there is one."""

    @classmethod
    def of(
        cls,
        type: ErrorType,  # noqa: A002  the API's word
        phase: Phase,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
    ) -> "Fault":
        """Fill retry class and hint from `ERROR_CLASSES`; `hint` says it more exactly."""
        known = ERROR_CLASSES[type]
        return cls(type, phase, message[:MESSAGE_CHARS], known.retry, hint or known.hint, code)

    @property
    def out_of_reach(self) -> bool:
        """Whether time may mend it and nothing was learned beyond the health of the address."""
        return self.retry is Retry.TRANSIENT and self.phase in _REACHING


_REACHING: Final = frozenset({Phase.DISCOVER, Phase.RESOLVE, Phase.TCP, Phase.HEALTH})


def redacted(text: str, *secrets: str | None) -> str:
    """Take secrets out of what somebody else has said: a peer may send back what it was shown."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[redacted]")
    return text


def described(error: BaseException) -> str:
    """Put an exception into words; a group of one is that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


MESSAGE_CHARS: Final = 1024
"""A message is cut here: log stores and status pages are not for dumps."""


class CastraydError(Exception):
    """The root of what castrayd raises on purpose.

    * `AlreadyRunningError`: another daemon holds what this one needs.
    * `AttachError`: a classified fault of an attempt or of an attachment.
    * `SettingsError`: faults of the settings, all at once.
    * `ApiError`: a request that is refused, with its type.
    * `RecipientError`: what is meant for one casting node does not reach it.
    * `InvalidTransitionError`: a bug, a pair that the transition table lacks.
    """


class AlreadyRunningError(CastraydError):
    """Raised when another daemon holds the socket, or the ledger."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"another castrayd uses {self.path}"


class AttachError(CastraydError):
    """Raised when a phase of an attempt, or a check of an attachment, fails."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.fault.phase}: {self.fault.type}: {self.fault.message}"


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One fault of the settings: the dotted path of the key, and what is wrong with it."""

    path: str
    message: str


class SettingsError(CastraydError):
    """Raised when settings are unusable; holds every problem found."""

    def __init__(
        self, source: str, problems: tuple[SettingsProblem, ...], *, passing: bool = False
    ) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems
        self.passing = passing
        """Whether it may mend by itself, as a full disk does: then a restart is worth it."""

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {p.path}: {p.message}" for p in self.problems)


class InvalidTransitionError(CastraydError):
    """Raised when the transition table has no row for an event in a state."""

    def __init__(self, state: str, event: str) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"no transition from {self.state} on {self.event}"
