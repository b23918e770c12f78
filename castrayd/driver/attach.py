"""The Ray driver itself: import, init, node map, shutdown. All calls come from one lane."""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from castrayd.driver.nodes import NodeMap

__all__ = ("Attachment", "Refusal")

_SELF_STARTERS = frozenset({"", "auto", "local"})
"""Addresses with which Ray may start a cluster of its own."""


class Refusal(Exception):  # noqa: N818  it is no error of ours
    """Raised to answer a request with a classified error."""

    def __init__(self, type: str, message: str, code: str | None = None) -> None:  # noqa: A002
        super().__init__(type, message, code)
        self.type = type
        self.message = message
        self.code = code

    def document(self) -> dict[str, Any]:
        """Return the error as the wire carries it."""
        return {"type": self.type, "message": self.message, "code": self.code}


class Attachment:
    """Holds the driver of this process: at most one, for ever."""

    def __init__(self, push: Callable[[str, dict[str, Any]], None]) -> None:
        self._push = push
        self._ray: Any = None
        self._map: NodeMap | None = None
        self.is_client = False
        """Whether by Ray Client: the driver is then a process of the head, and this its remote."""

    def load(self) -> dict[str, Any]:
        """Import ray, with its self-starting switched off before."""
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        try:
            import ray  # noqa: PLC0415  half a second, and only here
        except ImportError as error:
            raise Refusal("dependency_missing", f"{_where()} cannot import ray: {error}") from error
        logging.getLogger("ray._private.worker").addFilter(_worth_saying)
        self._ray = ray
        return {"ray": ray.__version__}

    def attach(self, request: dict[str, Any]) -> dict[str, Any]:
        """Join the cluster at `address`, or with mode `local` start one."""
        address, mode = request["address"], request["mode"]
        if mode != "local" and (address is None or address in _SELF_STARTERS):
            raise Refusal("address_invalid", f"{address!r} could start a cluster: refused")
        if mode == "client":
            _let_clients_end()
        try:
            context = self._ray.init(**_arguments(request))
        except BaseException as error:
            raise _translated(error) from error
        self.is_client = mode == "client"
        facts = self._facts(context)
        self._map = NodeMap(self._ray, self._push)
        return facts

    def _facts(self, context: Any) -> dict[str, Any]:
        info = getattr(context, "address_info", {})  # a client's context has none
        return {
            "cluster_id": _cluster_id(),
            "node_id": info.get("node_id"),
            "ray_version": context.ray_version or self._ray.__version__,
            "python_version": context.python_version or platform.python_version(),
            "dashboard_url": context.dashboard_url or None,
            "session_name": os.path.basename(info.get("session_dir") or "") or None,
            "session_dir": info.get("session_dir"),
            "gcs_address": info.get("gcs_address"),
        }

    def nodes(self) -> dict[str, Any]:
        """Return the whole node map; from then on changes are pushed."""
        node_map = self._joined()
        return {"nodes": node_map.load(), "available": node_map.available()}

    def heartbeat(self) -> None:
        """Make one short round trip to the GCS through Ray."""
        self._joined()
        with self._lost_for_good():
            if self.is_client:
                self._ask_own_server()
            else:
                client: Any = self._ray._private.worker.global_worker  # noqa: SLF001  no public name
                client.gcs_client.internal_kv_exists(b"session_name", b"session", timeout=10)

    def refresh(self) -> None:
        """Read the node map, and push what of it has changed."""
        with self._lost_for_good():
            self._joined().refresh()

    @contextmanager
    def _lost_for_good(self) -> Iterator[None]:
        """End with a lost client: it never comes back, and Ray would start a cluster instead."""
        try:
            yield
        except ConnectionError as error:
            if self.is_client:
                _end(f"Ray Client has lost its server: {error}")
            raise

    def _ask_own_server(self) -> None:
        """Ask over the channel that is this client; other calls wait half a minute for a new one.

        Raises ConnectionError when it is lost. Ray has no public name for it.
        """
        try:
            ask = self._ray.util.client.ray.get_context().client_worker.connection_info
        except AttributeError:
            ask = self._ray.nodes
        ask()

    def _joined(self) -> NodeMap:
        if self._map is None:
            raise Refusal("init_failed", "not attached")
        return self._map

    def shutdown(self) -> None:
        """End a local cluster cleanly."""
        self._map = None
        self._ray.shutdown()


def _let_clients_end() -> None:
    """Keep a client that failed from waiting for its own log thread: 40 s, and the reason is lost.

    Nothing of it is needed any more, for this process ends with its client.
    """
    try:
        from ray.util.client.logsclient import LogstreamClient  # noqa: PLC0415
    except ImportError:  # no public name: where it moved, the failure is told late, as a timeout
        return
    LogstreamClient.close = lambda _self: None


def _end(message: str) -> None:
    """End the process; the daemon keeps its last words."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(1)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Ray warns that it leaves SIGTERM alone off the main thread: that is why we are off it."""
    return "SIGTERM handler" not in str(record.msg)


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    local = request["mode"] == "local"
    arguments: dict[str, Any] = {
        "address": "local" if local else request["address"],
        "namespace": request["namespace"],
        "log_to_driver": False,
        "configure_logging": False,
    }
    environment: dict[str, Any] = {}
    if request["env_vars"]:
        environment["env_vars"] = request["env_vars"]
    if local:
        arguments["include_dashboard"] = False
        if request["working_dir"]:
            environment["working_dir"] = request["working_dir"]
    if environment:  # an empty one costs the cluster a second for its first worker
        arguments["runtime_env"] = environment
    return arguments


def _cluster_id() -> str | None:
    """Read the cluster's id from the driver; Ray has no public name for it."""
    try:
        from ray._private import worker  # noqa: PLC0415

        client: Any = worker.global_worker
        return str(client.gcs_client.cluster_id.hex())
    except Exception:  # noqa: BLE001  a private name may move: then the id is unknown, no failure
        return None


def _where() -> str:
    return f"Python {platform.python_version()}"


_CLASSES: tuple[tuple[str, str], ...] = (
    (r"Version mismatch", "version_mismatch"),
    (r"not a valid namespace|namespace must be", "namespace_invalid"),
    (r"InvalidAuthToken|no authentication token|RAY_AUTH_TOKEN_PATH", "auth_rejected"),
    (r"Could not read 'session_name'|Did GCS start successfully", "cluster_not_ready"),
    (r"No node info found|Failed to get node info", "cluster_not_ready"),
    (
        r"Initialization failure from server|Starting Ray client server failed",
        "client_server_start_failed",
    ),
    (r"requires pip package|No module named", "dependency_missing"),
    (r"Invalid address format|Invalid Ray address|Invalid gcs_address", "address_invalid"),
    (
        r"must not be provided|must be an existing directory|exceeds the maximum size",
        "config_invalid",
    ),
)
"""Ray raises few types for many causes: its words are all there is. Texts of Ray 2.60."""


def _translated(error: BaseException) -> Refusal:
    text = _chain(error)
    kind = next((kind for words, kind in _CLASSES if re.search(words, text)), "init_failed")
    return Refusal(kind, _in_short(text), type(error).__name__)


CAUSES = 5
"""Deeper than any that Ray makes; a cycle of causes must end."""


def _chain(error: BaseException | None) -> str:
    """Join the error with its causes: Ray hides the reason in them."""
    parts: list[str] = []
    while error is not None and len(parts) < CAUSES:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return " <- ".join(parts)


def _in_short(text: str) -> str:
    """Put it on one line; of a traceback that a server sent along only what was raised counts."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        lines = [lines[0], lines[-1]]
    return " ".join(lines)[:1000]
