"""What the command line asks for, and what follows from it and the settings: paths and aims.

`cli` makes the request; `daemon` alone reads the rest.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from castrayd.control.access import AccessPolicy
from castrayd.control.paths import default_socket_path, from_systemd
from castrayd.control.socket import faults
from castrayd.errors import SettingsError, SettingsProblem
from castrayd.probe.discovery import Discovery
from castrayd.session.guard import ray_temp_dir
from castrayd.settings import Settings, load
from castrayd.supervisor.connection import Connection

__all__ = ("RunRequest", "access_of", "connection_of", "socket_path_of", "state_dir_of")


def _working_dir() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "/"  # it was removed under us: as good as none


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks for."""

    config: Path | None = None
    instance: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Settings given as arguments, by dotted key; they win over file and environment."""
    address: str | None = None
    demo_nodes: int = 0
    """So many casting nodes to want, for a demonstration."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    working_dir: str = field(default_factory=_working_dir)
    """Where the daemon was started; it may be gone when a reload asks."""

    def settings(self) -> tuple[Settings, tuple[str, ...]]:
        """Load the settings as they are now, with warnings; what passes can be started with.

        Raises `SettingsError`.
        """
        settings, warnings = load(self.config, self.environ, self.overrides)
        problems = [*faults(socket_path_of(self, settings), settings.metrics.listen)]
        passing = not problems  # a group may be unknown for as long as its directory is down
        try:
            access_of(settings)
        except SettingsError as error:
            problems += error.problems
        if problems:
            raise SettingsError(str(self.config or "settings"), tuple(problems), passing=passing)
        return settings, warnings


def access_of(settings: Settings) -> AccessPolicy:
    """Say who may do what. Raises `SettingsError`."""
    control = settings.control
    return AccessPolicy.of(
        control.write_groups, control.read_groups, own_uid_writes=control.own_uid_writes
    )


def connection_of(request: RunRequest, settings: Settings) -> Connection:
    """Say which cluster, and how it is joined."""
    ray = settings.ray
    return Connection(
        cli_address=request.address,
        env_address=request.environ.get("RAY_ADDRESS", "").strip() or None,
        config_addresses=ray.addresses,
        namespace=ray.namespace,
        discovery=Discovery(
            kinds=ray.discovery,
            temp_dir=ray_temp_dir(request.environ),
            addresses_file=ray.addresses_file,
            dns_name=ray.dns_name,
        ),
        allow_local_start=ray.allow_local_start,
        local_working_dir=_local_working_dir(request, settings),
        env_vars=dict(ray.env_vars),
        python=settings.session.python,
        token_file=ray.token_file,
        environ=request.environ,
        deadlines=settings.deadlines_policy(),
        policy=settings.policy(),
    )


def _local_working_dir(request: RunRequest, settings: Settings) -> str | None:
    """Where castrayd was started, unless that is the root."""
    chosen = settings.ray.local_working_dir or request.working_dir
    return None if chosen == "/" else chosen


def socket_path_of(request: RunRequest, settings: Settings) -> Path:
    """Say where the control socket is."""
    if settings.control.socket:
        return Path(settings.control.socket)
    return default_socket_path(request.instance, request.environ)


def state_dir_of(request: RunRequest, settings: Settings) -> Path:
    """Find and make the folder for what lasts: settings, systemd, root's, the user's."""
    chosen = settings.daemon.state_dir or from_systemd("STATE_DIRECTORY", request.environ)
    if not chosen:
        home = request.environ.get("XDG_STATE_HOME") or f"{Path.home()}/.local/state"
        base = "/var/lib/castrayd" if os.geteuid() == 0 else f"{home}/castrayd"
        chosen = f"{base}-{request.instance}" if request.instance else base
    path = Path(chosen)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = SettingsProblem("daemon.state_dir", str(error))
        raise SettingsError(str(path), (problem,)) from error
    return path
