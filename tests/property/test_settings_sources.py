"""Settings from any source: the same value by whichever way, and no fault is ever lost."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castrayd.errors import SettingsError
from castrayd.settings import _ORDERED, Settings, SettingsField, changed, fields, load

FIELDS = {field.key: field for field in fields()}
WORDS = st.text("abcxyz019-./ ", min_size=1, max_size=12).filter(str.strip)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "ray.address": st.lists(st.sampled_from(["a:1", "b.c:6379", "[::1]:2", "auto"]), max_size=3),
    "ray.env_vars": st.dictionaries(st.text("AB_", min_size=1, max_size=4), WORDS, max_size=3),
    "checks.grace_s": st.floats(0.1, 59.9),
    "checks.timeout_s": st.floats(0.1, 1.0),
    "checks.interval_s": st.floats(1.0, 100.0),
    "backoff.initial_s": st.floats(0.1, 1.0),
    "backoff.max_s": st.floats(1.0, 1000.0),
    "failback.good_s": st.floats(0.1, 60.0),
    "failback.max_s": st.floats(60.0, 1000.0),
    "ray.discovery": st.lists(st.sampled_from(["raylet", "file", "dns"]), max_size=3),
    "casting.roots": st.dictionaries(
        st.text("abc", min_size=1, max_size=4),
        st.fixed_dictionaries(
            {"path": WORDS.map("/{}".format), "read": st.booleans(), "write": st.booleans()}
        ),
        max_size=2,
    ),
    "casting.disk_reserve_bytes": st.integers(0, 2**40),
    "ray.dns_name": st.sampled_from(["a:1", "b.c:6379"]),
    "log.format": st.sampled_from(["auto", "console", "json", "journald"]),
    "log.level": st.sampled_from(["debug", "info", "warning", "error"]),
}


def good(field: SettingsField) -> st.SearchStrategy[Any]:
    """Values that this setting takes."""
    if field.key in SPECIAL:
        return SPECIAL[field.key]
    if isinstance(field.default, bool):
        return st.booleans()
    if isinstance(field.default, int):
        return st.integers(1, 1000)
    if isinstance(field.default, float):
        return st.floats(0.001, 86400.0)
    if isinstance(field.default, tuple):
        return st.lists(WORDS, max_size=3)
    return WORDS


def together(tree: dict[str, Any]) -> dict[str, Any]:
    """Give the switch that needs another one what it needs."""
    if tree.get("ray.allow_local_fallback"):
        return tree | {"ray.allow_local_start": True}
    return tree


TREES = (
    st.sets(st.sampled_from(sorted(FIELDS)))
    .flatmap(lambda keys: st.fixed_dictionaries({key: good(FIELDS[key]) for key in sorted(keys)}))
    .map(together)
)
JUNK = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats() | st.text("ab\n\"'{}=#", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


def toml(value: object) -> str:
    """Write a value as TOML, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return msgspec.json.encode(value).decode()


def from_file(tree: dict[str, Any]) -> Settings:
    """Load a file that says this."""
    lines = [f"{key} = {toml(value)}\n" for key, value in tree.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "castrayd.toml"
        path.write_text("".join(lines))
        return load(path, {}, {})[0]


@given(TREES)
def test_file_variable_and_argument_say_the_same(tree: dict[str, Any]) -> None:
    """A value is the same by whichever way it comes."""
    plain = {key for key, field in FIELDS.items() if isinstance(field.default, str | None)}
    environ = {
        FIELDS[k].variable: v if k in plain and isinstance(v, str) else toml(v)
        for k, v in tree.items()
    }

    by_file = from_file(tree)

    assert (by_file, ()) == load(None, environ, {})
    assert (by_file, ()) == load(None, {}, tree)


@given(TREES, TREES)
def test_changed_is_what_differs(first: dict[str, Any], second: dict[str, Any]) -> None:
    """It is empty for equal settings alone, the same both ways, and names only what was given."""
    old, new = from_file(first), from_file(second)
    keys, restart = changed(old, new)

    assert (not keys) == (old == new)
    assert (keys, restart) == changed(new, old)
    assert set(restart) <= set(keys) <= set(first) | set(second)


@given(TREES, st.sets(st.sampled_from(sorted(FIELDS)), min_size=1))
def test_every_planted_fault_is_told(tree: dict[str, Any], broken: set[str]) -> None:
    """However many values are of no setting's type, each is named, and nothing else is."""
    no_type = {"no": [{"setting": "takes this"}]}
    with pytest.raises(SettingsError) as caught:
        from_file(tree | dict.fromkeys(broken, no_type))

    assert broken == {problem.path for problem in caught.value.problems}


@given(st.dictionaries(st.sampled_from([*sorted(FIELDS), "ray.nope", "nope.x"]), JUNK, max_size=4))
def test_junk_is_refused_and_nothing_worse(tree: dict[str, Any]) -> None:
    """Whatever stands in the file or a variable: settings, or the one error with its paths."""
    known = {FIELDS[key].variable: toml(value) for key, value in tree.items() if key in FIELDS}
    for source in (lambda: from_file(tree), lambda: load(None, known, {})):
        told = None
        try:
            source()
        except SettingsError as error:
            told = {problem.path for problem in error.problems}
        if told is not None:
            assert told
            lesser = {less for less, more in _ORDERED if more in tree}
            assert told <= {*tree, *(key.split(".")[0] for key in tree), *lesser}
