"""The casting node's actor without Ray: which of its methods wait for what, and what it begins."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from castrayd.driver.caster import actor
from castrayd.driver.caster.actor import GROUPS, METHODS, Caster


@pytest.fixture
def caster(tmp_path: Path) -> Caster:
    spec = {
        "data_dir": str(tmp_path), "namespace": "test", "name": "a", "owner": "me", "made": "once",
        "roots": {}, "inbox_capacity": 10, "dedupe_window": 10, "disk_reserve": 0, "port": None,
    }  # fmt: skip
    return Caster(spec)


def test_what_may_hang_keeps_no_thread_of_what_is_asked_all_the_time() -> None:
    """A listing on a dead mount must not make its node look lost."""
    grouped = [name for names in METHODS.values() for name in names]
    public = {name for name in vars(Caster) if not name.startswith("_")}
    assert (set(grouped), len(grouped)) == (public, len(public))
    assert set(METHODS) == set(GROUPS)
    assert set(METHODS["control"]) == {"describe", "send", "sending", "cancel_sending"}


def test_two_calls_begin_one_transfer(caster: Caster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon may ask again while its first call waits for a thread."""
    begun: list[Any] = []
    both = threading.Barrier(2)

    class Slow:
        """Takes as long to make as the other call takes to come."""

        def __init__(self, plan: dict[str, Any], *_: Any) -> None:
            begun.append(plan["id"])
            with contextlib.suppress(
                threading.BrokenBarrierError
            ):  # no other has come: as is right
                both.wait(0.3)

        def start(self) -> None:
            pass

        def progress(self) -> dict[str, Any]:
            return {"state": "running"}

    monkeypatch.setattr(actor, "Outgoing", Slow)
    plan = {"id": "t1", "recipients": ["b"]}
    threads = [threading.Thread(target=caster.send, args=(plan,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert begun == ["t1"]
