"""Units, manual pages and completion, as far as no systemd is needed to see them."""

import os
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from castrayd.cli import castrayctl, castrayd
from castrayd.cli.manual import pages
from castrayd.cli.placing import run

UNITS = Path("systemd")


def install(*words: str) -> str:
    result = CliRunner().invoke(castrayd.main, ["install-units", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_units_are_made_fit_for_this_installation(tmp_path: Path) -> None:
    install("--prefix", str(tmp_path), "--run-as", "worker")
    unit = (tmp_path / "usr/local/lib/systemd/system/castrayd@.service").read_text()
    assert "\nUser=worker\n" in unit
    assert "/usr/bin/castray" not in unit
    commands = [line for line in unit.splitlines() if line.startswith("Exec")]
    for line in commands:
        path = line.partition("=")[2].split()[0]
        assert os.access(path, os.X_OK), path
    assert os.access((tmp_path / "usr/local/bin/castrayctl").readlink(), os.X_OK)
    again = install("--prefix", str(tmp_path), "--run-as", "worker")
    assert {line.split()[0] for line in again.splitlines()} == {"same", "kept"}
    install("--prefix", str(tmp_path), "--run-as", "worker", "--remove")
    left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [tmp_path / "etc/castrayd/castrayd.toml"]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    said = install("--prefix", str(tmp_path), "--dry-run")
    assert all(line.startswith(("would write", "would link")) for line in said.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_too_is_for_a_user_that_is_there() -> None:
    result = CliRunner().invoke(castrayd.main, ["install-units", "--dry-run", "--run-as", "no-one"])
    assert result.exit_code == 78
    assert "no user 'no-one' here" in result.output


def test_the_commands_may_lie_in_an_odd_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which systemd takes apart at spaces, and in which it replaces what follows a percent sign."""
    scripts = tmp_path / "my 100%"
    scripts.mkdir()
    for name in ("castrayd", "castrayctl"):
        (scripts / name).touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(scripts / "castrayd")])
    install("--prefix", str(tmp_path))
    link = tmp_path / "usr/local/bin/castrayd"
    monkeypatch.setattr(sys, "argv", [str(link)])  # which is no folder of theirs
    assert f"same         {link}" in install("--prefix", str(tmp_path))
    unit = (tmp_path / "usr/local/lib/systemd/system/castrayd.service").read_text()
    assert f'ExecStart="{tmp_path}/my 100%%/castrayd" run --config ' in unit


def test_settings_are_kept_unread(tmp_path: Path) -> None:
    """Whatever an administrator wrote there, and whoever may read it."""
    path = tmp_path / "etc/castrayd/castrayd.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff")
    assert f"kept         {path}" in install("--prefix", str(tmp_path))
    assert path.read_bytes() == b"\xff"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()
    result = CliRunner().invoke(castrayd.main, ["install-units", "--prefix", str(tmp_path)])
    assert result.exit_code == 1
    assert f"Error: {tmp_path}/etc" in result.output


def test_without_systemd_the_user_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(click.ClickException, match="systemd-sysusers: No such file"):
        run("systemd-sysusers", "castrayd.conf")


def test_an_instance_differs_from_the_one_service_in_its_name_alone() -> None:
    one = (UNITS / "castrayd.service").read_text()
    many = (UNITS / "castrayd@.service").read_text()
    expected = one
    for here, there in (
        ("to a Ray cluster", "to the Ray cluster %i"),
        ("castrayd run --config /etc/castrayd/castrayd.toml",
         "castrayd run --instance %i --config /etc/castrayd/%i.toml"),
        ("/etc/castrayd/environment", "/etc/castrayd/%i.environment"),
        ("%t/castrayd/", "%t/castrayd-%i/"),
        ("RuntimeDirectory=castrayd", "RuntimeDirectory=castrayd-%i"),
        ("StateDirectory=castrayd\n", "StateDirectory=castrayd-%i\n"),
    ):  # fmt: skip
        assert here in expected
        expected = expected.replace(here, there)
    assert many == expected


def test_settings_of_the_example_are_settings(tmp_path: Path) -> None:
    """What is commented out there is taken when it is not."""
    lines = (UNITS / "castrayd.toml").read_text().splitlines()
    words = [line.removeprefix("# ") for line in lines]
    taken = [word for word in words if word.startswith("[") or " = " in word]
    assert len(taken) > 10
    path = tmp_path / "castrayd.toml"
    path.write_text("\n".join(taken).replace('"users"', '"root"').replace('"adm"', '"root"'))
    result = CliRunner().invoke(castrayd.main, ["check-config", "--config", str(path)])
    assert result.output == "ok\n"


def test_every_command_is_in_its_manual_page() -> None:
    assert set(pages()) == {"castrayd.8", "castrayctl.1"}
    for name, words in (("castrayd.8", ("run", "check\\-config")),
                        ("castrayctl.1", ("status", "file send", "log\\-level"))):  # fmt: skip
        for word in words:
            assert f".SS {name.partition('.')[0]} {word}" in pages()[name]


@pytest.mark.parametrize(
    ("command", "words", "unfinished", "expected"),
    [
        (castrayctl.main, [], "recon", "reconnect"),
        (castrayctl.main, ["message"], "s", "send"),
        (castrayctl.main, ["wait", "--for"], "conn", "connected"),
        (castrayd.main, [], "install", "install-units"),
    ],
)
def test_the_shell_completes(
    command: click.Group, words: list[str], unfinished: str, expected: str
) -> None:
    complete = BashComplete(command, {}, command.name or "", "_COMPLETE")
    assert expected in [item.value for item in complete.get_completions(words, unfinished)]
