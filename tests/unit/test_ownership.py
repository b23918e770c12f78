"""What root makes by hand in a service's folder is the service's."""

import os
from pathlib import Path

import pytest

from castrayd.ownership import make_file, make_folder

pytestmark = pytest.mark.lab  # only root makes anything for another user


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a service whose user is not root."""
    os.chown(tmp_path, 65534, 65534)
    return tmp_path


def test_is_its_folders_owners_and_nobody_elses_to_read(folder: Path) -> None:
    make_folder(folder / "a")
    make_file(folder / "a" / "b")
    make_file(folder / "c")
    for path, mode in ((folder / "a", 0o700), (folder / "a" / "b", 0o600), (folder / "c", 0o600)):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, mode)


def test_what_is_there_stays_as_it_is(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "b").write_text("kept")
    make_folder(folder / "a")
    make_file(folder / "b")
    assert (folder / "b").read_text() == "kept"
    assert {path.stat().st_uid for path in folder.iterdir()} == {0}
