"""What the ledger's transfer makes of what its sender says, and the speed that comes of it."""

from typing import Any

from castrayd.casting.outcomes import anew, merged
from castrayd.casting.plans import Part, Transfer
from castrayd.casting.speed import Speed

RUNNING = Transfer(
    "t", "2026-01-01T00:00:00Z", "a", "files:x", "files:x",
    (Part("b", state="running", bytes_verified=60, bytes_sent=80),),
    state="running", bytes_total=100,
)  # fmt: skip


def _said(verified: int | None, sent: int, total: int | None) -> dict[str, Any]:
    part = {
        "recipient": "b", "state": "running", "bytes_verified": verified, "bytes_sent": sent,
        "sha256": None, "path": None, "error": None,
    }  # fmt: skip
    return {"state": "running", "bytes_total": total, "sha256": None, "recipients": [part]}


def test_what_a_new_sender_does_not_know_yet_stays_as_it_was() -> None:
    """Until the recipient has told it what it has, nothing of that is taken back."""
    again = merged(anew(RUNNING), _said(None, 0, None))
    assert (again.bytes_total, again.bytes_verified) == (100, 60)
    again = merged(again, _said(0, 20, 100))  # it has lost all
    assert again.bytes_verified == 0
    assert again.parts[0].bytes_sent == 100


def test_speed_is_never_negative() -> None:
    """What a recipient has lost is no speed."""
    speed = Speed()
    for at_s, count in ((0.0, 0), (1.0, 50), (2.0, 10)):
        speed.add(at_s, count)
    assert speed.rate() is None
    speed.add(3.0, 40)
    assert speed.rate() == 30
