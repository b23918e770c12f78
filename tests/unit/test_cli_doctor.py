"""How castrayctl shows the doctor's report, and what it packs."""

import stat
import tarfile
from pathlib import Path
from typing import Any

import click
import pytest

from castrayd.cli import bundle, doctor

STEPS: list[dict[str, Any]] = [
    {"name": "resolve", "outcome": "ok", "seconds": 0.0004, "seen": {"addresses": "10.0.0.1:1"}},
    {"name": "tcp", "outcome": "failed", "seconds": 1.5, "seen": {}},
    {"name": "health", "outcome": "not_reached", "seconds": None, "seen": {}},
]
FAULT = {"type": "tcp_timeout", "phase": "tcp", "message": "silent", "hint": "Look.", "code": None}
BAD: dict[str, Any] = {
    "address": "h:1", "source": "discovery:raylet", "mode": "driver", "hearsay": True, "ok": False,
    "steps": STEPS, "error": FAULT,
}  # fmt: skip
HOST = [
    {"name": "raylet", "verdict": "ok", "seen": "pid 1", "remedy": None},
    {"name": "clock", "verdict": "unknown", "seen": "?", "remedy": "Run chrony."},
]
REPORT: dict[str, Any] = {
    "ok": False, "by": "castrayd", "uid": 5, "candidates": [BAD], "error": None, "host": HOST,
}  # fmt: skip


def test_report_is_a_tick_or_a_cross_a_step_with_its_remedy() -> None:
    """Every line of it."""
    assert list(doctor.lines(REPORT)) == [
        "h:1  discovery:raylet, driver, hearsay",
        "  resolve  ✔ ok               0.4 ms  addresses 10.0.0.1:1",
        "  tcp      ✘ failed        1500.0 ms",
        "           tcp_timeout: silent",
        "           → Look.",
        "  health   · not reached",
        "this host  seen by castrayd as uid 5",
        "  raylet  ✔ ok           pid 1",
        "  clock   ? unknown      ?",
        "          → Run chrony.",
        "not well: see what has failed above",
    ]


def test_good_report_counts_what_is_still_to_be_looked_at() -> None:
    """Warnings do not spoil it; what is not known is said to be so."""
    step = {"name": "identity", "outcome": "ok", "seconds": 1, "seen": {"cluster_id": None}}
    good = {**BAD, "hearsay": False, "ok": True, "steps": [step], "error": None}
    shown = list(doctor.lines({**REPORT, "ok": True, "candidates": [good]}))

    assert shown[1].endswith("cluster id unknown")
    assert shown[-1] == "all is well, with 1 of this host to look at"


@pytest.mark.parametrize("where", ["candidate", "report"])
def test_fault_without_a_step_is_told_too(where: str) -> None:
    """An address that is none, and no address at all."""
    bare = {**BAD, "address": "nope", "mode": None, "hearsay": False, "steps": []}
    report = {**REPORT, "candidates": [bare] if where == "candidate" else []}
    shown = list(doctor.lines({**report, "error": None if where == "candidate" else FAULT}))

    assert shown[0] == ("nope  discovery:raylet" if where == "candidate" else "tcp_timeout")
    assert shown[1:3] == ["    tcp_timeout: silent", "    → Look."]


@pytest.mark.parametrize("address", ["", "auto", "local", "h", "h:0", "http://h:1"])
def test_address_that_is_none_is_wrong_usage(address: str) -> None:
    """Before anything is asked."""
    with pytest.raises(click.BadParameter):
        doctor.checked(address)


def test_bundle_is_for_its_owner_alone_and_without_the_token(tmp_path: Path) -> None:
    """Also where a peer has repeated it; a file that is there is not replaced."""
    path = tmp_path / "b.tar.gz"
    bundle.pack(str(path), {"status": {"message": 'Bearer t0"ken!'}, "events": []}, 't0"ken')
    with tarfile.open(path) as archive:
        texts = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]

    assert set(texts) == {"castray-bundle/status.json", "castray-bundle/events.json"}
    assert b"Bearer (token)!" in texts["castray-bundle/status.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        bundle.pack(str(path), {}, None)


def test_half_an_archive_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves nothing behind."""

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_add", full)
    with pytest.raises(OSError, match="No space"):
        bundle.pack(str(tmp_path / "b"), {"status": {}}, None)
    assert not list(tmp_path.iterdir())
