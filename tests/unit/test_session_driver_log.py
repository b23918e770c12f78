"""The log of a dead driver: what it says last, and nothing where there is none."""

from pathlib import Path

from castrayd.session.driver_log import TAIL_BYTES, driver_log

LOG = """\
[2026-11-24 12:00:00,100 I 77 77] core_worker_process.cc:123: Constructing CoreWorkerProcess.
[2026-11-24 12:00:01,100 W 77 90] (python-core-driver-01 77) gcs.cc:7: slow
not of this form
[2026-11-24 12:01:02,200 E 77 91] gcs_rpc_client.h:179: Failed to connect to GCS within 60 seconds.
"""


def test_last_serious_lines_are_told_without_their_heads(tmp_path: Path) -> None:
    """Warnings and worse, of this process alone."""
    (tmp_path / "python-core-driver-0100_77.log").write_text(LOG)
    (tmp_path / "python-core-driver-0200_78.log").write_text(LOG.replace("Failed", "Other"))

    expected = "slow | Failed to connect to GCS within 60 seconds."
    assert driver_log(str(tmp_path), 77) == expected


def test_end_of_a_large_log_is_enough(tmp_path: Path) -> None:
    """It may have grown for weeks."""
    filler = LOG.splitlines()[0] + "\n"
    (tmp_path / "python-core-driver-0100_77.log").write_text(filler * TAIL_BYTES + LOG)

    assert driver_log(str(tmp_path), 77).endswith("within 60 seconds.")


def test_no_folder_and_no_file_say_nothing(tmp_path: Path) -> None:
    """A head's temporary folder may be anywhere, or gone."""
    assert driver_log(None, 77) == ""
    assert driver_log(str(tmp_path / "none"), 77) == ""
    assert driver_log(str(tmp_path), 77) == ""
