"""What follows from a request and the settings."""

import os
from pathlib import Path

import pytest

from castrayd.errors import SettingsError
from castrayd.request import RunRequest, state_dir_of

NO_GROUP = '[control]\nread_groups = ["no-such-group"]\n'


@pytest.mark.parametrize(("more", "passing"), [("", True), ('[metrics]\nlisten = "x"\n', False)])
def test_an_unknown_group_may_be_known_later(tmp_path: Path, more: str, passing: bool) -> None:
    """Its directory is down, as at boot: to be tried again; not so what is faulty besides."""
    config = tmp_path / "castrayd.toml"
    config.write_text(NO_GROUP + more)
    with pytest.raises(SettingsError, match="no-such-group") as caught:
        RunRequest(config, environ={}).settings()
    assert caught.value.passing is passing


@pytest.mark.parametrize("uid", [0, 1234])
def test_an_instance_keeps_its_state_where_its_unit_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    """By hand too: beside that of the one without a name."""
    made: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(Path, "mkdir", lambda path, **_: made.append(str(path)))
    request = RunRequest(instance="lab", environ={"XDG_STATE_HOME": str(tmp_path)})
    state_dir_of(request, RunRequest(environ={}).settings()[0])
    home = "/var/lib" if uid == 0 else str(tmp_path)
    assert made == [f"{home}/castrayd-lab"]
