"""The closed sets of errors are whole, and a fault is filled from them."""

import pytest

from castrayd.errors import (
    API_STATUS,
    ERROR_CLASSES,
    MESSAGE_CHARS,
    ApiErrorType,
    AttachError,
    ErrorType,
    Fault,
    InvalidTransitionError,
    Phase,
)


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
