"""What is known of the cluster: plain records that probe, session, supervisor and API share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ("ClusterFacts", "Node", "Place")


@dataclass(frozen=True, slots=True)
class Node:
    """One Ray node as the GCS lists it."""

    node_id: str
    """Hex."""
    alive: bool
    address: str
    hostname: str
    port: int
    """The NodeManager's gRPC port; 0 where unknown."""
    head: bool
    resources: Mapping[str, float] = field(default_factory=dict)
    """Totals, as Ray names them (memory in bytes)."""
    labels: Mapping[str, str] = field(default_factory=dict)
    death_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a session says of the cluster that it has joined."""

    cluster_id: str | None
    """Hex; None where the mode does not tell (Ray Client)."""
    node_id: str | None
    """Hex id of the Ray node on this host that the driver uses."""
    ray_version: str
    python_version: str
    dashboard_url: str | None
    session_name: str | None
    gcs_address: str | None = None
    """`host:port` of the GCS as Ray names it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attachment stands among the candidates."""

    rank: int = 0
    """How many candidates were preferred to it."""
    cluster_id: str | None = None
    """Hex; None where the mode does not tell."""
    fallback: bool = False
    """A local cluster, started because what is configured stayed unreachable."""
