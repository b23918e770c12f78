"""The README: what is generated in it is as the code has it."""

from castrayd.telemetry.journald import NAMESPACE
from tests.support.readme import README, command, renewed


def test_generated_parts_are_not_stale() -> None:
    """Diagram, settings and errors are those of the code."""
    text = README.read_text()

    assert renewed(text) == text, "run: python -m tests.support.readme"


def test_commands_are_one_line_of_plain_pip() -> None:
    """The two commands that a newcomer copies."""
    assert command("run").endswith("castrayd run --allow-local-start")
    assert command("test").endswith(".venv/bin/pytest")


def test_namespace_of_message_ids_is_told() -> None:
    """Who computes a MESSAGE_ID by it finds what the journal has."""
    assert f"`{NAMESPACE}`" in README.read_text()
