"""The ledger: what outlives the daemon, and files that are not as they should be."""

import sqlite3
from pathlib import Path

import pytest

from castrayd import ledger as ledgers
from castrayd.core.states import Desired
from castrayd.errors import SettingsError
from castrayd.ledger import SCHEMA, Ledger, Row, Wish


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


def test_event_numbers_rise_over_a_life_of_more_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A next life begins above all that was stored, and numbers over others' rows are none."""
    monkeypatch.setattr(ledgers, "SEQ_BLOCK", 10)
    ledger = Ledger(tmp_path / "l")
    first = ledger.reserve_seq()
    for seq in range(first, first + 25):
        ledger.store_events([_row(seq)])
    unstored = first + 25 + 3  # published, and lost by a kill
    ledger.close()
    again = _reopened(tmp_path / "l")

    assert again.reserve_seq() > unstored
    again.close()


def test_file_that_cannot_be_written_is_a_matter_of_settings(tmp_path: Path) -> None:
    """It opens, and takes nothing: the start is refused as with any folder that is no good."""
    ledger = Ledger(tmp_path / "l")
    ledger._db.execute("PRAGMA query_only=ON")
    for write in (ledger.daemon_id, ledger.reserve_seq):
        with pytest.raises(SettingsError, match="readonly"):
            write()
    ledger.close()


def test_close_waits_for_no_disk_that_hangs(tmp_path: Path) -> None:
    """The lock is held by a write that does not return."""
    ledger = Ledger(tmp_path / "l")
    with ledger._turn:
        ledger.close(0.05)
        assert ledger.wish() == Wish()  # left open
    ledger.close()


def test_refused_file_is_let_go_of(tmp_path: Path) -> None:
    """What could not be opened can be opened later by the same process."""
    path = tmp_path / "l"
    path.mkdir()
    for _ in range(2):
        with pytest.raises(SettingsError):
            Ledger(path)


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


def _row(seq: int, at: str = "2026-01-01T00:00:00.000000Z", name: str = "a") -> Row:
    return seq, at, name, str(seq).encode()


def test_events_outlive_a_restart_in_order(tmp_path: Path) -> None:
    """The last ones, of one name or of all; the oldest of them first."""
    first = Ledger(tmp_path / "l")
    first.store_events([_row(1), _row(2, name="b"), _row(3), _row(4)])
    first.close()
    again = _reopened(tmp_path / "l")

    assert again.events(3) == [b"2", b"3", b"4"]
    assert again.events(2, "a") == [b"3", b"4"]
    again.close()


def test_events_are_bounded_by_count_and_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are kept, or from another month, are gone; a look comes with the first write."""
    monkeypatch.setattr(ledgers, "EVENTS_KEPT", 10)
    monkeypatch.setattr(ledgers, "PRUNE_EVERY", 5)
    monkeypatch.setattr(ledgers, "YOUNG", 5)
    ledger = Ledger(tmp_path / "l")
    for seq in range(1, 41, 5):
        ledger.store_events([_row(seq + n) for n in range(5)])
    assert ledger.events(100) == [str(seq).encode() for seq in range(31, 41)]
    ledger.store_events([_row(seq, "2026-03-01T00:00:00Z") for seq in range(41, 46)])
    assert ledger.events(100) == [str(seq).encode() for seq in range(41, 46)]
    ledger.close()


def test_chatty_name_pushes_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a session says, the attempts of the last days stay."""
    monkeypatch.setattr(ledgers, "OF_ONE_KEPT", 10)
    monkeypatch.setattr(ledgers, "PRUNE_EVERY", 1)
    ledger = Ledger(tmp_path / "l")
    ledger.store_events([(1, "2026-01-01T00:00:00Z", "attempt", b"1")])
    for seq in range(2, 50):
        ledger.store_events([(seq, "2026-01-01T00:00:00Z", "output", str(seq).encode())])
    assert ledger.events(100) == [b"1", *(str(seq).encode() for seq in range(40, 50))]
    ledger.close()


def test_clock_that_was_wrong_takes_no_history(tmp_path: Path) -> None:
    """A host that starts in another year, and is corrected, keeps what it knew."""
    ledger = Ledger(tmp_path / "l")
    ledger.store_events([_row(seq) for seq in range(1, 100)])
    ledger.close()
    again = _reopened(tmp_path / "l")
    again.store_events([_row(100, "2036-01-01T00:00:00Z")])

    assert len(again.events(1000)) == 100
    again.close()


def test_file_of_an_older_version_is_brought_up(tmp_path: Path) -> None:
    """What it knew stays; what is new to it is there."""
    path = tmp_path / "l"
    db = sqlite3.connect(path)
    db.executescript(f"{ledgers._MIGRATIONS[0]}; PRAGMA user_version=1")
    db.execute("INSERT INTO facts VALUES ('daemon_id', 'old')")
    db.commit()
    db.close()
    ledger = Ledger(path)

    assert ledger.daemon_id() == "old"
    ledger.store_events([_row(1)])
    assert ledger.events(1) == [b"1"]
    ledger.close()
