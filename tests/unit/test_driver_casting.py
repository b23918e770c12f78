"""What the driver says of a call that failed: never that nothing came, where it may have come."""

import json
import subprocess
import sys

import pytest

_SCRIPT = """
import json, ray
from ray.exceptions import *
from castrayd.driver import casting

raised = RayTaskError("deliver", "Traceback", ValueError("bad row")).as_instanceof_cause()
assert isinstance(raised, ValueError)
found = {}
for name, error in {
    "late": TimeoutError(),
    "away": ActorUnavailableError("gone for now", None),
    "dead": ActorDiedError(),
    "bug": raised,
    "other": ValueError("of Ray's own"),
}.items():
    found[name] = casting._failure(error)["error"]["type"]
for name, error in {"unknown": ValueError("no such"), "unseen": GetTimeoutError("no GCS")}.items():
    def look(_actor):
        raise error
    ray.get_actor = look
    try:
        casting._found("castray:1:x")
    except Exception as caught:
        found[name] = casting._failure(caught)["error"]["type"]
for name, depth in {"flat": 19, "deep": 20, "deeper": 50_000}.items():
    answer = []
    for _ in range(depth):
        answer = [answer]
    try:
        casting._refuse_deep(answer, casting.DEEPEST)
        found[name] = None
    except ValueError as caught:
        found[name] = casting._failure(caught)["error"]["type"]
print(json.dumps(found))
"""


@pytest.mark.ray
def test_call_that_was_under_way_is_never_unreachable() -> None:
    """Only a node that was not even found is; Ray dresses a node's own bug as what it raised."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, check=True)
    assert json.loads(done.stdout) == {
        "late": "timed_out",
        "away": "timed_out",
        "dead": "interrupted",
        "bug": "internal",
        "other": "internal",
        "unknown": "unreachable",
        "unseen": "unreachable",
        "flat": None,
        "deep": "internal",
        "deeper": "internal",
    }
