"""The ledger: what outlives the daemon, and files that are not as they should be."""

import sqlite3
from pathlib import Path

import pytest

from castrayd.core.states import Desired
from castrayd.errors import SettingsError
from castrayd.ledger import SCHEMA, Ledger, Wish


def _reopened(path: Path) -> Ledger:
    return Ledger(path)


def test_daemon_id_lasts(tmp_path: Path) -> None:
    """The id of the daemon is the same after a restart."""
    first = Ledger(tmp_path / "l")
    daemon_id = first.daemon_id()
    first.close()
    again = _reopened(tmp_path / "l")

    assert daemon_id == again.daemon_id()
    again.close()


def test_wish_lasts_with_who_and_why(tmp_path: Path) -> None:
    """What an operator wanted, who it was and why are there after a restart."""
    first = Ledger(tmp_path / "l")
    assert first.wish() == Wish()
    first.store_wish(Wish(Desired.PAUSED, "uid 0", "maintenance"))
    first.close()
    again = _reopened(tmp_path / "l")

    assert Wish(Desired.PAUSED, "uid 0", "maintenance") == again.wish()
    again.close()


def test_event_numbers_rise_over_restarts(tmp_path: Path) -> None:
    """No number is given out twice, however short the lives."""
    firsts = []
    for _ in range(3):
        ledger = Ledger(tmp_path / "l")
        firsts.append(ledger.reserve_seq())
        ledger.close()

    assert firsts == sorted(set(firsts))


def test_damaged_file_is_set_aside(tmp_path: Path) -> None:
    """A damaged file is kept beside a new one, never deleted."""
    path = tmp_path / "l"
    path.write_bytes(b"no database at all" * 1000)
    ledger = Ledger(path)

    assert ledger.set_aside is not None
    assert ledger.set_aside.read_bytes().startswith(b"no database")
    assert ledger.wish() == Wish()
    ledger.close()


def test_newer_file_is_refused_untouched(tmp_path: Path) -> None:
    """A file of a newer castrayd is a configuration fault, and stays as it was."""
    path = tmp_path / "l"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.commit()
    db.close()
    before = path.read_bytes()

    with pytest.raises(SettingsError, match="newer"):
        Ledger(path)

    assert before == path.read_bytes()
