"""Settings: where they come from, which win, and what is said of every fault."""

import subprocess
import sys
from pathlib import Path

import pytest

from castrayd.core.policy import Deadlines, Policy
from castrayd.errors import SettingsError
from castrayd.settings import Settings, changed, fields, load, table


def loaded(toml: str, tmp_path: Path, **environ: str) -> Settings:
    """Load a file of this text, with variables."""
    path = tmp_path / "castrayd.toml"
    path.write_text(toml)
    return load(path, environ, {})[0]


def problems(
    toml: str, tmp_path: Path, environ: dict[str, str] | None = None, **overrides: object
) -> dict[str, str]:
    """Load what must be refused; returns what was said, by dotted path."""
    path = tmp_path / "castrayd.toml"
    path.write_text(toml)
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {}, dotted)
    said = {problem.path: problem.message for problem in caught.value.problems}
    assert len(said) == len(caught.value.problems), "a problem is told once"
    return said


# --- where values come from ---


def test_defaults_are_those_of_the_core() -> None:
    """Nothing given: the core's own numbers, and nothing to warn of."""
    settings, warnings = load(None, {}, {})

    assert Policy() == settings.policy()
    assert Deadlines() == settings.deadlines_policy()
    assert () == warnings


def test_every_number_reaches_its_policy(tmp_path: Path) -> None:
    """A value of each section that the core or an attempt obeys arrives there."""
    settings = loaded(
        "[ray]\nmin_nodes = 7\n[checks]\ngrace_s = 11\n[backoff]\nmax_s = 90\n"
        "[casting]\nsettle_s = 3\n[deadlines]\ninit_s = 33\n",
        tmp_path,
    )
    policy = settings.policy()

    assert (7, 11.0, 90.0, 3.0) == (
        policy.min_nodes,
        policy.checks.grace_s,
        policy.backoff.max_s,
        policy.settle_s,
    )
    assert 33.0 == settings.deadlines_policy().init_s


def test_argument_wins_over_variable_over_file(tmp_path: Path) -> None:
    """The nearer to the person who starts it, the stronger."""
    path = tmp_path / "castrayd.toml"
    path.write_text("[ray]\nnamespace = 'file'\n")
    environ = {"CASTRAYD_RAY__NAMESPACE": "variable"}

    assert "file" == load(path, {}, {})[0].ray.namespace
    assert "variable" == load(path, environ, {})[0].ray.namespace
    assert "argument" == load(path, environ, {"ray.namespace": "argument"})[0].ray.namespace


@pytest.mark.parametrize(
    ("given", "addresses"),
    [("''", ()), ("'a:1'", ("a:1",)), ("['a:1', 'b:2']", ("a:1", "b:2")), ("'auto'", ("auto",))],
)
def test_address_is_one_or_a_list(given: str, addresses: tuple[str, ...], tmp_path: Path) -> None:
    """Either form; the empty text is none."""
    assert addresses == loaded(f"[ray]\naddress = {given}\n", tmp_path).ray.addresses


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("CASTRAYD_RAY__ADDRESS", "head:6379", "ray.address", "head:6379"),
        ("CASTRAYD_RAY__ADDRESS", '["a:1", "b:2"]', "ray.address", ("a:1", "b:2")),
        ("CASTRAYD_RAY__ENV_VARS", '{A = "b"}', "ray.env_vars", {"A": "b"}),
        ("CASTRAYD_RAY__ALLOW_LOCAL_START", "true", "ray.allow_local_start", True),
        ("CASTRAYD_RAY__NAMESPACE", "12", "ray.namespace", "12"),
        ("CASTRAYD_RAY__TOKEN_FILE", "/run/true", "ray.token_file", "/run/true"),
        ("CASTRAYD_CHECKS__GRACE_S", "12", "checks.grace_s", 12.0),
        ("CASTRAYD_CONTROL__WRITE_GROUPS", '["ops"]', "control.write_groups", ("ops",)),
    ],
)
def test_variable_is_read_as_its_setting_needs(
    variable: str, text: str, key: str, value: object
) -> None:
    """Text stays text where the setting is one; else it is TOML."""
    section, name = key.split(".")
    settings = load(None, {variable: text}, {})[0]

    assert value == getattr(getattr(settings, section), name)


def test_every_setting_has_a_variable_that_reaches_it() -> None:
    """A fault in any one variable is told under the key of that variable."""
    for field in fields():
        if isinstance(field.default, str | None) and field.key not in {"log.format", "log.level"}:
            continue  # any text will do there
        if field.key == "ray.address":
            continue  # likewise, up to its form

        with pytest.raises(SettingsError) as caught:
            load(None, {field.variable: "{ = "}, {})

        (problem,) = caught.value.problems
        assert field.key == problem.path
        assert field.variable in problem.message


# --- variables of others ---


def test_other_names_of_our_prefix_only_warn() -> None:
    """Kubernetes injects names like these; a slip of the pen gets the name that was meant."""
    environ = {"CASTRAYD_SERVICE_HOST": "10.0.0.1", "CASTRAYD_RAY__NAMESPCE": "x", "OTHER": "y"}
    settings, warnings = load(None, environ, {})

    assert Settings() == settings
    assert warnings[0].startswith("CASTRAYD_RAY__NAMESPCE is no setting and is ignored")
    assert "did you mean 'CASTRAYD_RAY__NAMESPACE'?" in warnings[0]
    assert warnings[1].startswith("CASTRAYD_SERVICE_HOST is no setting and is ignored")
    assert 2 == len(warnings)


def test_names_that_the_commands_read_do_not_warn() -> None:
    """They are no settings, and nobody need be told."""
    environ = {"CASTRAYD_SOCKET": "/run/s", "CASTRAYD_CONFIG": "/etc/c"}

    assert () == load(None, environ, {})[1]


# --- faults ---


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Types, ranges, unknown names, and what only two settings together can get wrong."""
    said = problems(
        "[ray]\nmin_nodes = 0\nadress = 'x'\n"
        "[backoff]\ninitial_s = 100\n[log]\nlevel = 'loud'\n[nope]\na = 1\n",
        tmp_path,
        {"CASTRAYD_CHECKS__GRACE_S": "soon"},
        control__own_uid_writes="yes",
    )

    assert {
        "ray.min_nodes",
        "ray.adress",
        "backoff.initial_s",
        "log.level",
        "nope",
        "checks.grace_s",
        "control.own_uid_writes",
    } == set(said)
    assert "did you mean 'address'?" in said["ray.adress"]
    assert "one of" in said["log.level"]
    assert "warning" in said["log.level"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ray.namespace", "''"),
        ("ray.min_nodes", "0"),
        ("ray.min_nodes", "true"),
        ("ray.min_nodes", "1.5"),
        ("ray.address", "6379"),
        ("ray.address", "'head'"),
        ("ray.address", "['a:1', 'head']"),
        ("ray.address", "['']"),
        ("ray.env_vars", "{A = 1}"),
        ("ray.allow_local_start", "1"),
        ("control.write_groups", "'ops'"),
        ("control.read_groups", "['']"),
        ("daemon.stop_s", "0"),
        ("daemon.stop_s", "-1"),
        ("checks.grace_s", "60"),
        ("checks.interval_s", "nan"),
        ("checks.timeout_s", "3"),
        ("deadlines.init_s", "inf"),
        ("deadlines.attempt_s", "86401"),
        ("backoff.initial_s", "61"),
        ("log.format", "'xml'"),
    ],
)
def test_bad_value_is_refused_by_its_path(key: str, value: str, tmp_path: Path) -> None:
    """Wrong type, out of range, or not fitting another: exactly that key is named."""
    section, name = key.split(".")

    assert [key] == list(problems(f"[{section}]\n{name} = {value}\n", tmp_path))


def test_no_fault_is_told_of_a_default_that_stands_in_for_a_fault(tmp_path: Path) -> None:
    """A value that is unusable is one problem: nothing is compared with what stands in for it."""
    said = problems(
        "[backoff]\ninitial_s = 100\nmax_s = 'long'\n[checks]\ninterval_s = 0\ntimeout_s = 5\n",
        tmp_path,
    )

    assert {"backoff.max_s", "checks.interval_s"} == set(said)


def test_fault_of_the_file_is_told_where_an_argument_hides_it(tmp_path: Path) -> None:
    """It would appear on the day on which the argument is left out."""
    said = problems("[ray]\nmin_nodes = 0\n", tmp_path, {"CASTRAYD_RAY__MIN_NODES": "2"})

    assert ["ray.min_nodes"] == list(said)
    assert "CASTRAYD_" not in said["ray.min_nodes"]


def test_fault_names_the_variable_or_argument_that_it_is_in(tmp_path: Path) -> None:
    """It stands under the file's name, but is not to be found there."""
    environ = {"CASTRAYD_RAY__MIN_NODES": "0", "CASTRAYD_BACKOFF__INITIAL_S": "99"}
    said = problems("", tmp_path, environ, daemon__stop_s=-1)

    assert said["backoff.initial_s"].endswith("(CASTRAYD_BACKOFF__INITIAL_S)")
    assert said["ray.min_nodes"].endswith("(CASTRAYD_RAY__MIN_NODES)")
    assert said["daemon.stop_s"].endswith("(an argument)")


def test_variable_holds_one_value_and_no_more() -> None:
    """Further lines would be keys that nobody reads."""
    with pytest.raises(SettingsError, match=r"ray\.min_nodes"):
        load(None, {"CASTRAYD_RAY__MIN_NODES": "3\nother = 1"}, {})


def test_what_two_sources_make_together_is_judged(tmp_path: Path) -> None:
    """A file that is faulty alone may be mended by an argument, and the other way round."""
    path = tmp_path / "castrayd.toml"
    path.write_text("[backoff]\nmax_s = 100\n")
    settings, _ = load(path, {}, {"backoff.initial_s": 80.0})

    assert settings.backoff.initial_s == 80.0


@pytest.mark.parametrize("toml", ["ray = 1\n", "[[ray]]\nmin_nodes = 1\n"])
def test_section_must_be_a_table(toml: str, tmp_path: Path) -> None:
    """Also when a variable of that section is given."""
    assert ["ray"] == list(problems(toml, tmp_path, {"CASTRAYD_RAY__MIN_NODES": "2"}))


@pytest.mark.parametrize("content", [b"[ray\n", b"[ray]\na = 1\na = 2\n", b"\xff\xfe", None])
def test_unreadable_file_is_a_fault_of_the_file(content: bytes | None, tmp_path: Path) -> None:
    """Broken TOML, a key twice, no text, no file: its path is in what is said."""
    path = tmp_path / "castrayd.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(path, {}, {})

    assert ["file"] == [problem.path for problem in caught.value.problems]
    assert str(path) in str(caught.value)


# --- reload, and the README ---


def test_changed_names_keys_and_those_that_need_a_restart(tmp_path: Path) -> None:
    """Equal settings differ in nothing; the socket cannot move under a running daemon."""
    old = loaded("", tmp_path)
    new = loaded("[ray]\nmin_nodes = 2\n[control]\nsocket = '/run/s'\n", tmp_path)

    assert ((), ()) == changed(old, loaded("", tmp_path))
    assert (("ray.min_nodes", "control.socket"), ("control.socket",)) == changed(old, new)


def test_table_has_every_setting_with_unit_and_default() -> None:
    """One row each, as many cells as the head, nothing empty that should say something."""
    head, _, *rows = table().splitlines()
    names = ["key", "type", "unit", "default", "reload", "what it is"]

    assert names == [cell.strip() for cell in head.strip("|").split("|")]
    assert [field.key for field in fields()] == [row.split("`")[1] for row in rows]
    for row in rows:
        key, kind, unit, default, reload, text = (c.strip() for c in row[1:-1].split("|"))
        assert all((kind, default, text)), key
        assert reload in {"yes", "restart"}
        assert ("s" if key.endswith("_s`") else "") == unit


def test_import_is_light() -> None:
    """It stands before the daemon's first answer: good ones load nothing that takes time."""
    script = (
        "import sys; from castrayd.settings import load;"
        "load(None, {'CASTRAYD_SERVICE_HOST': 'x'}, {}); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=20
    )
    heavy = {"aiohttp", "anyio", "asyncio", "click", "difflib", "grpc", "ray", "structlog"}

    assert "msgspec" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
