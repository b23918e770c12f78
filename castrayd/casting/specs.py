"""What the actor of a casting node is made of, and how to tell an outdated one."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import castrayd
from castrayd.casting.policy import CastingPolicy
from castrayd.casting.wanted import WantedNode
from castrayd.core.cluster import Node

__all__ = ("Spec", "placed", "spec")

Spec = dict[str, Any]


def spec(
    one: WantedNode,
    owner: str,
    namespace: str,
    policy: CastingPolicy,
    roots: Mapping[str, Mapping[str, Any]],
) -> Spec:
    """Return what a node is made of wherever it is; `made_of` stands for all of it."""
    made = {
        "name": one.name,
        "owner": owner,
        "required": one.required,
        "namespace": namespace,
        "port": one.port,
        "data_dir": policy.data_dir,
        "inbox_capacity": policy.inbox_messages,
        "dedupe_window": policy.dedupe_messages,
        "disk_reserve": policy.disk_reserve_bytes,
        "roots": {name: dict(root) for name, root in roots.items()},
    }
    return {**made, "made_of": _digest(made)}


def placed(of: Spec, node: Node) -> Spec:
    """Return what the driver makes an actor of, on a Ray node."""
    place = {"node_id": node.node_id, "address": node.address, "hostname": node.hostname}
    return {**of, **place, "made": uuid.uuid4().hex}


def _digest(made: Mapping[str, Any]) -> str:
    text = json.dumps(made, sort_keys=True) + _code()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _code() -> str:
    """Stand for the code that goes to the cluster: an upgrade that leaves it alone is none."""
    whole = hashlib.sha256()
    for file in sorted((Path(castrayd.__file__).parent / "driver" / "caster").glob("*.py")):
        whole.update(file.read_bytes())
    return whole.hexdigest()
