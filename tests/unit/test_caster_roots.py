"""A casting node's roots: what is read and written, and that nothing leads out of them."""

import os
import stat
from pathlib import Path

import pytest

from castrayd.driver.caster.roots import FileRefusal, Roots


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("files", "library", "drop"):
        (tmp_path / name).mkdir()
    return Roots(
        {
            "files": {"path": str(tmp_path / "files"), "write": True},
            "library": {"path": str(tmp_path / "library"), "write": False},
            "drop": {"path": str(tmp_path / "drop"), "read": False, "write": True},
        }
    )


def _refused(roots: Roots, text: str, *, write: bool = False) -> str:
    with pytest.raises(FileRefusal) as caught:
        os.close(roots.open_parent(text)[0] if write else roots.open_file(text))
    return caught.value.type


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":a", "files", "files:", "elsewhere:a", "files:/etc/passwd", "files:../a",
        "files:a/../b", "files:./a", "files:a/.", "files:a//b", "files:a/", "files:a\0b",
        "files:" + "n" * 256, "files:" + "n/" * 2100 + "n", "files:.castray-x.part",
        "files:.castray-x/a", "files:\ud800",
    ],
)  # fmt: skip
def test_bad_paths_are_refused(roots: Roots, text: str, write: bool) -> None:
    assert _refused(roots, text, write=write) == "path_forbidden"


def test_root_for_reading_takes_nothing(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "library" / "a").write_text("text")

    assert _refused(roots, "library:b", write=True) == "path_forbidden"
    descriptor = roots.open_file("library:a")
    assert os.read(descriptor, 9) == b"text"
    os.close(descriptor)


def test_root_for_writing_shows_nothing(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "drop" / "a").write_text("text")

    assert _refused(roots, "drop:a") == "path_forbidden"
    with pytest.raises(FileRefusal, match="nobody may read in root drop"):
        roots.listing("drop:", 10)
    assert roots.space("drop:b/c").f_bavail > 0
    folder, name = roots.open_parent("drop:b/c")
    os.close(folder)
    assert (name, (tmp_path / "drop" / "b").is_dir()) == ("c", True)


def test_links_are_never_followed(roots: Roots, tmp_path: Path) -> None:
    """Neither at the end of a path nor within it, in the root or out of it."""
    files = tmp_path / "files"
    (files / "real").mkdir()
    (files / "real" / "a").write_text("text")
    (files / "folder").symlink_to(files / "real")
    (files / "a").symlink_to(files / "real" / "a")
    (files / "out").symlink_to("/etc")

    assert _refused(roots, "files:a") == "path_forbidden"
    assert _refused(roots, "files:folder/a") == "path_forbidden"
    assert _refused(roots, "files:out/passwd") == "path_forbidden"
    assert _refused(roots, "files:folder/b", write=True) == "path_forbidden"


def test_only_regular_files_are_read(roots: Roots, tmp_path: Path) -> None:
    """A FIFO does not block the node either."""
    (tmp_path / "files" / "folder").mkdir()
    os.mkfifo(tmp_path / "files" / "fifo")

    assert _refused(roots, "files:folder") == "path_forbidden"
    assert _refused(roots, "files:fifo") == "path_forbidden"
    assert _refused(roots, "files:nothing") == "not_found"
    assert _refused(roots, "files:nothing/a") == "not_found"


def test_missing_folders_are_made_for_writing(roots: Roots, tmp_path: Path) -> None:
    folder, leaf = roots.open_parent("files:a/b/c.bin")
    facts = os.fstat(folder)
    os.close(folder)

    assert leaf == "c.bin"
    assert facts.st_ino == (tmp_path / "files/a/b").stat().st_ino
    assert stat.S_IMODE(facts.st_mode) == 0o755
    assert roots.space("files:d/e/f").f_bavail > 0
    assert not (tmp_path / "files/d").exists()


def test_listing_tells_names_kinds_and_sizes(roots: Roots, tmp_path: Path) -> None:
    """Of the root too, in order, bounded, without what is in progress."""
    files = tmp_path / "files"
    (files / "b").write_bytes(b"1234")
    os.utime(files / "b", (1000, 1000.5))
    (files / "a").mkdir()
    (files / "c").symlink_to("/etc")
    (files / ".castray-1.part").write_text("")
    (files / "a" / "inner").write_text("")

    found = roots.listing("files:", 10)

    assert [(entry["name"], entry["kind"]) for entry in found] == [
        ("a", "dir"), ("b", "file"), ("c", "other"),
    ]  # fmt: skip
    assert found[1] == {"name": "b", "kind": "file", "size": 4, "mtime": 1000.5}
    assert [entry["name"] for entry in roots.listing("files:", 1)] == ["a"]
    assert [entry["name"] for entry in roots.listing("files:a", 9)] == ["inner"]
    with pytest.raises(FileRefusal):
        roots.listing("files:c", 9)


def test_no_descriptor_is_left_open(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "files" / "a").write_text("")
    before = len(os.listdir("/proc/self/fd"))
    for text in ("files:a", "files:a/b", "files:x/y", "files:../a"):
        for write in (False, True):
            try:
                os.close(roots.open_parent(text)[0] if write else roots.open_file(text))
            except FileRefusal:
                continue
    roots.listing("files:", 9)

    assert before == len(os.listdir("/proc/self/fd"))
