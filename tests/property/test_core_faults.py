"""Seeded faults: the tests of the core must notice each of these, or they prove nothing.

Each fault breaks one rule of the core by replacing one name. Then the scenarios run, test by test
in this process, until one fails. Faults that do not need a long story to show must be found by the
shell of `test_core_shell` as well, which is not told where to look.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import tests.property.core_place_seeds  # noqa: F401  it enters its faults
from castrayd.core import backoff, effects, health, machine
from tests.property.core_seeds import FAULTS, FOR_SHELL, Seeder
from tests.property.test_core_shell import Shell
from tests.unit import (
    test_core_backoff,
    test_core_health,
    test_core_losses,
    test_core_places,
    test_core_requests,
)

SCENARIOS: Final[tuple[ModuleType, ...]] = (
    test_core_requests,
    test_core_losses,
    test_core_backoff,
    test_core_health,
    test_core_places,
)
QUICK = settings(
    max_examples=1000,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
"""Ends at the first failure: within a second or so for each fault that is marked for the shell."""

SHORT = settings(QUICK, max_examples=50)


# --- how a fault is noticed -------------------------------------------------------------------


def _cases(module: ModuleType) -> Iterator[Callable[[], None]]:
    """Yield the tests of a module, one for each set of parameters."""
    for name, test in vars(module).items():
        if name.startswith("test_"):
            for arguments in _arguments(test):
                yield partial(test, **arguments)


def _arguments(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    tables = []
    for mark in getattr(test, "pytestmark", ()):
        names, values, *_ = mark.args
        rows = [(v,) for v in values] if isinstance(names, str) else values
        keys = (names,) if isinstance(names, str) else names
        tables.append([dict(zip(keys, row, strict=True)) for row in rows])
    for rows in itertools.product(*tables):
        yield {key: value for row in rows for key, value in row.items()}


def _fails(check: Callable[[], None]) -> bool:
    try:
        check()
    except (TypeError, AttributeError, NameError):
        return False  # a seed that does not fit the core any more, and tells nothing
    except (Exception, pytest.fail.Exception):  # noqa: BLE001  whatever else it is, it was noticed
        return True
    return False


def _scenarios_notice() -> bool:
    return any(_fails(case) for module in SCENARIOS for case in _cases(module))


def _shell_notices() -> bool:
    return _fails(lambda: run_state_machine_as_test(Shell, settings=QUICK))


# --- the claims -------------------------------------------------------------------------------


def test_sound_core_passes_what_faults_are_measured_with() -> None:
    """Scenarios and shell have nothing to say against the core as it is."""
    assert not _scenarios_notice()
    assert not _fails(lambda: run_state_machine_as_test(Shell, settings=SHORT))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_noticed_by_the_scenarios(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one readable scenario stands for each rule."""
    FAULTS[name](Seeder(monkeypatch))

    assert _scenarios_notice()


@pytest.mark.parametrize("name", sorted(FOR_SHELL))
def test_fault_is_noticed_by_the_shell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stateful test finds it without being told where to look."""
    FAULTS[name](Seeder(monkeypatch))

    assert _shell_notices()


# --- the seeds themselves ---------------------------------------------------------------------


def _names() -> list[Any]:
    """Return everything that a fault may replace."""
    return [dict(vars(module)) for module in (backoff, effects, health, machine, health.Health)]


@pytest.mark.parametrize("name", FAULTS)
def test_seed_changes_the_core_and_is_undone(name: str) -> None:
    """A fault that replaces nothing would be noticed by nobody; one that stays, by everybody."""
    sound = _names()
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[name](Seeder(patch))
        assert sound != _names()

    assert sound == _names()
