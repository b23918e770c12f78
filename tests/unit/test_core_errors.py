"""The closed sets of errors are whole, and a fault is filled from them."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from castrayd.errors import (
    ERROR_CLASSES,
    MESSAGE_CHARS,
    AttachError,
    ErrorType,
    Fault,
    InvalidTransitionError,
    Phase,
    Retry,
)
from castrayd.refusals import API_STATUS, ApiErrorType

REAL = ("integration", "chaos")
"""Where nothing is played but peers: what is raised there has a real cause."""


def test_every_type_has_a_class_and_every_refusal_a_status() -> None:
    """The sets are closed: nothing can be raised that nothing is known of."""
    assert set(ErrorType) == set(ERROR_CLASSES)
    assert set(ApiErrorType) == set(API_STATUS)


@pytest.mark.parametrize("type_", ErrorType)
def test_every_class_says_what_was_seen_and_what_to_do(type_: ErrorType) -> None:
    """Meaning and hint are one sentence or more each, on one line; at least one phase."""
    known = ERROR_CLASSES[type_]

    for text in (known.meaning, known.hint):
        assert text.endswith(".")
        assert "\n" not in text
    assert known.phases
    assert known.retry in Retry


def _names(path: Path) -> Iterator[str]:
    """Yield the classes that a file names: as text, or as members of the set."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.Attribute(value=ast.Name(id="ErrorType"), attr=name):
                yield ErrorType[name]


@lru_cache
def _expected() -> frozenset[str]:
    """What the tests with real causes expect, by the name of a class and nothing around it."""
    folder = Path(__file__).parents[1]
    files = [file for name in REAL for file in (folder / name).glob("test_*.py")]
    return frozenset(text for file in files for text in _names(file))


@pytest.mark.parametrize("type_", ErrorType)
def test_every_class_has_a_test_with_a_real_cause(type_: ErrorType) -> None:
    """A class that nobody has seen happen may as well be named wrongly where it does."""
    assert type_ in _expected()


def test_fault_is_filled_from_its_class() -> None:
    """Retry and hint come from the class; an exacter hint wins; long messages are cut."""
    known = ERROR_CLASSES[ErrorType.TCP_REFUSED]
    fault = Fault.of(ErrorType.TCP_REFUSED, Phase.TCP, "x" * 5000, code="ECONNREFUSED")

    assert (known.retry, known.hint, "ECONNREFUSED") == (fault.retry, fault.hint, fault.code)
    assert MESSAGE_CHARS == len(fault.message)
    assert "do this" == Fault.of(fault.type, Phase.TCP, "", hint="do this").hint


def test_errors_tell_what_happened() -> None:
    """Text for logs: phase, class and message; state and event."""
    error = AttachError(Fault.of(ErrorType.TCP_REFUSED, Phase.TCP, "no"))

    assert "tcp: tcp_refused: no" == str(error)
    assert "no transition from connected on Started" == str(
        InvalidTransitionError("connected", "Started")
    )
