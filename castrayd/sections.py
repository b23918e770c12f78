"""The sections of the settings, as types: what may be set, its unit, bounds and default.

`settings` reads them from file, environment and arguments.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from castrayd.core.policy import BackoffPolicy, Checks, Deadlines, FailbackPolicy, Policy

__all__ = (
    "DAY_S",
    "BackoffSettings",
    "CastingSettings",
    "CheckSettings",
    "ControlSettings",
    "DaemonSettings",
    "DeadlineSettings",
    "FailbackSettings",
    "LogSettings",
    "MetricsSettings",
    "RaySettings",
    "RootSettings",
    "SessionSettings",
)

DAY_S: Final = 86400
Seconds = Annotated[float, Meta(gt=0, le=DAY_S)]
Name = Annotated[str, Meta(min_length=1)]
RootName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_-]{0,31}$")]

_BACKOFF, _CHECKS, _DEADLINES = BackoffPolicy(), Checks(), Deadlines()
_FAILBACK, _POLICY = FailbackPolicy(), Policy()


class RaySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[ray]: which cluster, and how it is joined."""

    address: Annotated[
        str | tuple[str, ...], Meta(description="`host:port` of the head, or a list in order")
    ] = ()
    namespace: Annotated[Name, Meta(description="Ray namespace of everything castrayd makes")] = (
        "castray"
    )
    discovery: Annotated[
        tuple[Literal["raylet", "ray_current_cluster", "file", "dns"], ...],
        Meta(description="where to look for clusters after the configured ones; `[]`: nowhere"),
    ] = ("raylet", "ray_current_cluster", "file", "dns")
    addresses_file: Annotated[
        str | None, Meta(description="for discovery `file`: one address a line, watched")
    ] = None
    dns_name: Annotated[
        str | None,
        Meta(description="for discovery `dns`: `name:port`, each of its addresses a candidate"),
    ] = None
    allow_local_start: Annotated[
        bool, Meta(description="start a cluster here when none is configured or found")
    ] = False
    allow_local_fallback: Annotated[
        bool,
        Meta(description="start one also when what is configured stays out of reach"),
    ] = False
    fallback_after_s: Annotated[
        Seconds, Meta(description="out of reach for so long before the fallback")
    ] = 60.0
    local_working_dir: Annotated[
        str | None,
        Meta(description="working_dir of a local cluster; default: where it was started"),
    ] = None
    token_file: Annotated[
        str | None, Meta(description="file with the cluster's token, read anew at each attempt")
    ] = None
    env_vars: Annotated[
        dict[str, str], Meta(description="environment of our workers on the cluster")
    ] = {}
    min_nodes: Annotated[
        int, Meta(ge=1, description="fewer living nodes than this are `degraded`")
    ] = _POLICY.min_nodes

    @property
    def addresses(self) -> tuple[str, ...]:
        """The address or addresses, in order."""
        if isinstance(self.address, str):
            return (self.address,) if self.address else ()
        return self.address


class SessionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[session]: the child process that holds the driver."""

    python: Annotated[
        str | None, Meta(description="interpreter with the cluster's Ray; default: our own")
    ] = None


class ControlSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[control]: the control socket, and who may use it."""

    socket: Annotated[
        str | None,
        Meta(description="path of the control socket; the units rely on the default"),
    ] = None
    write_groups: Annotated[
        tuple[Name, ...], Meta(description="groups that may read and write")
    ] = ()
    read_groups: Annotated[tuple[Name, ...], Meta(description="groups that may read")] = ()
    own_uid_writes: Annotated[
        bool, Meta(description="whether our own uid may write; every Ray job may have it")
    ] = True


class DaemonSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[daemon]: the process itself."""

    state_dir: Annotated[str | None, Meta(description="folder for what lasts")] = None
    stop_s: Annotated[Seconds, Meta(description="how long an orderly stop may take")] = 10.0


class CheckSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[checks]: how an attachment is watched."""

    interval_s: Annotated[Seconds, Meta(description="between two timed checks")] = (
        _CHECKS.interval_s
    )
    timeout_s: Annotated[Seconds, Meta(description="a later answer is a miss")] = _CHECKS.timeout_s
    grace_s: Annotated[
        float, Meta(gt=0, lt=60, description="for an attachment that fails to come back")
    ] = _CHECKS.grace_s


class BackoffSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[backoff]: how failed attempts are spaced."""

    initial_s: Annotated[Seconds, Meta(description="ceiling after the first failure")] = (
        _BACKOFF.initial_s
    )
    max_s: Annotated[Seconds, Meta(description="highest ceiling")] = _BACKOFF.max_s
    gap_s: Annotated[Seconds, Meta(description="at least, after a failure's end")] = _BACKOFF.gap_s
    stable_s: Annotated[Seconds, Meta(description="connected for so long resets the count")] = (
        _BACKOFF.stable_s
    )


class FailbackSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[failback]: when to move back to a preferred candidate."""

    good_s: Annotated[
        Seconds, Meta(description="one of another cluster has been good; doubled by each move")
    ] = _FAILBACK.good_s
    max_s: Annotated[Seconds, Meta(description="longest hold before such a move")] = _FAILBACK.max_s


class DeadlineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[deadlines]: how long each phase of an attempt may take."""

    discover_s: Annotated[Seconds, Meta(description="finding candidates")] = _DEADLINES.discover_s
    resolve_s: Annotated[Seconds, Meta(description="the host's name")] = _DEADLINES.resolve_s
    tcp_s: Annotated[Seconds, Meta(description="the connection")] = _DEADLINES.tcp_s
    health_s: Annotated[Seconds, Meta(description="the GCS's health")] = _DEADLINES.health_s
    identity_s: Annotated[Seconds, Meta(description="version, token, cluster id")] = (
        _DEADLINES.identity_s
    )
    local_node_s: Annotated[Seconds, Meta(description="a raylet on this host")] = (
        _DEADLINES.local_node_s
    )
    spawn_s: Annotated[Seconds, Meta(description="a session with ray imported")] = (
        _DEADLINES.spawn_s
    )
    init_s: Annotated[Seconds, Meta(description="ray.init")] = _DEADLINES.init_s
    client_init_s: Annotated[Seconds, Meta(description="ray.init by Ray Client")] = (
        _DEADLINES.client_init_s
    )
    nodes_s: Annotated[Seconds, Meta(description="the node map")] = _DEADLINES.nodes_s
    attempt_s: Annotated[Seconds, Meta(description="the attempt as a whole")] = _DEADLINES.attempt_s


class RootSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[casting.roots.NAME]: a folder that files are read from, written to, or both."""

    path: Annotated[str, Meta(pattern="^/", description="absolute, on each casting node's host")]
    read: bool = True
    write: bool = False


class CastingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[casting]: casting nodes."""

    data_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="on each casting node's host: files and inbox; a change leaves them behind",
        ),
    ] = "~/.local/share/castray"
    inbox_messages: Annotated[
        int, Meta(ge=1, le=100_000, description="that wait unacknowledged; more are refused")
    ] = 1000
    dedupe_messages: Annotated[
        int, Meta(ge=0, le=1_000_000, description="whose ids an inbox remembers")
    ] = 10_000
    roots: Annotated[
        dict[RootName, RootSettings], Meta(description="folders beside `files`, by name")
    ] = msgspec.field(default_factory=dict)
    upload_bytes: Annotated[
        int, Meta(ge=0, description="that uploads may take together in daemon.state_dir")
    ] = 16 * 2**30
    upload_s: Annotated[Seconds, Meta(description="after which an upload is removed")] = DAY_S
    disk_reserve_bytes: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="left free where files arrive; default: 1 GiB or 6 %, the larger"),
    ] = None
    patience_s: Annotated[
        Seconds, Meta(description="for a transfer's sender or recipient that does not answer")
    ] = 60.0
    follow: Annotated[bool, Meta(description="make casting nodes on a fallback cluster too")] = (
        False
    )
    settle_s: Annotated[
        Seconds, Meta(description="after an attach, before service reasons count")
    ] = _POLICY.settle_s


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[log]: what is said."""

    format: Annotated[
        Literal["auto", "console", "json", "journald"],
        Meta(description="`auto`: colours on a terminal, fields in the journal, else JSON lines"),
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="the least that is said")
    ] = "info"


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[metrics]: for Prometheus."""

    listen: Annotated[
        str | None,
        Meta(description="`127.0.0.1:port` that serves `/metrics` and health; default: none"),
    ] = None
