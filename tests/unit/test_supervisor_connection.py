"""What an attempt is made with: token sources, candidates, what a reload changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from castrayd.core.candidates import LOCAL, Candidate, candidate
from castrayd.core.policy import Policy
from castrayd.errors import ErrorType, Fault, Phase
from castrayd.probe.discovery import Discovery
from castrayd.supervisor.connection import Connection, find_token


def _file(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_token_sources_are_asked_in_order(tmp_path: Path) -> None:
    """Our file wins over the credential, that over Ray's variables, those over Ray's file."""
    environ = {
        "CREDENTIALS_DIRECTORY": str(tmp_path / "cred"),
        "RAY_AUTH_TOKEN": "of-the-variable",
        "RAY_AUTH_TOKEN_PATH": _file(tmp_path / "path", "of-the-path\n"),
        "HOME": str(tmp_path),
    }
    ours = _file(tmp_path / "ours", "of-our-file\n")
    _file(tmp_path / "cred" / "ray-token", "of-the-credential")
    _file(tmp_path / ".ray" / "auth_token", "of-the-home")
    removals = (None, tmp_path / "ours", tmp_path / "cred" / "ray-token")

    seen = []
    for path in removals:
        if path is not None:
            path.unlink()
        seen.append(find_token(ours, environ))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"):
        del environ[name]
        seen.append(find_token(ours, environ))

    assert [
        "ray.token_file",
        "credential:ray-token",
        "env:RAY_AUTH_TOKEN",
        "env:RAY_AUTH_TOKEN_PATH",
        "file:~/.ray/auth_token",
        "none was found",
    ] == [token.source.partition(";")[0] for token in seen]
    assert [token.source for token in seen][1:] == [
        token.source.partition(";")[0] + "; ray.token_file: No such file or directory"
        for token in seen[1:]
    ]
    assert seen[-1].value is None


def test_token_is_not_in_its_repr() -> None:
    """A token that slips into a log line by repr shows its source alone."""
    token = find_token(None, {"RAY_AUTH_TOKEN": "very-secret"})

    assert token is not None
    assert "very-secret" not in repr(token)


def test_request_is_tried_alone() -> None:
    """An address asked for by a request takes the place of all configured ones."""
    connection = Connection(config_addresses=("a:1", "b:2"))

    assert ["c:3"] == [one.text for one in connection.candidates("c:3")]
    assert ["a:1", "b:2"] == [one.text for one in connection.candidates(None)]


@pytest.mark.parametrize(
    ("attached", "rank"),
    [
        (candidate("a:1", "config"), 0),
        (candidate("c:3", "env:RAY_ADDRESS"), 1),
        (candidate("b:2", "config"), None),
        (candidate("b:2", "request"), None),
        (candidate("b:2", "discovery:file"), 2),
        (candidate("b:2", "discovery:raylet"), None),
        (Candidate("local", "local", LOCAL), None),
    ],
)
def test_rank_is_that_among_what_is_still_a_candidate(
    attached: Candidate, rank: int | None
) -> None:
    """After a reload an attachment stays only when its address is still asked for."""
    settings = Connection(
        config_addresses=("a:1", "c:3"),
        allow_local_start=True,
        discovery=Discovery(kinds=("file",)),
    )

    every = [candidate(one, "config") for one in ("a:1", "c:3")]
    every.append(candidate("b:2", "discovery:file"))
    if attached.source != "discovery:file":
        every.pop()

    assert rank == settings.rank(attached, every)


def test_discovery_that_cannot_tell_costs_no_session() -> None:
    """Silence about a place is not its end; that it is not among what is told is."""
    settings = Connection(config_addresses=("a:1",), discovery=Discovery(kinds=("file",)))
    attached = candidate("b:2", "discovery:file")
    fault = Fault.of(ErrorType.NO_CLUSTER_FOUND, Phase.DISCOVER, "silent")
    wanted = candidate("a:1", "config")

    assert settings.rank(attached, [wanted]) is None
    assert settings.rank(attached, [wanted, Candidate("file", "discovery:file", None, fault)]) == 1


def test_local_cluster_is_kept_where_it_would_be_started() -> None:
    """Where nothing is configured, or where it may stand in for what is."""
    own = Candidate("local", "local", LOCAL)
    wanted = Connection(config_addresses=("a:1",), allow_local_start=True)

    assert Connection(allow_local_start=True).rank(own, ()) == 0
    assert replace(wanted, policy=Policy(fallback_after_s=60.0)).rank(own, ()) == 1


def test_fits_and_aims_tell_what_matters() -> None:
    """A changed namespace needs another session; a changed address only another attempt."""
    old = Connection(config_addresses=("a:1",))

    assert not replace(old, namespace="other").fits(old)
    assert replace(old, config_addresses=("b:2",)).fits(old)
    assert replace(old, config_addresses=("b:2",)).aims(old)
    assert replace(old, policy=Policy(fallback_after_s=1.0)).aims(old)
    assert not replace(old).aims(old)
