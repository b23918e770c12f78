"""What a session says: whole lines, bounded in length and rate."""

import os

from castrayd.session.output import BURST_LINES, LINE_BYTES, Output, SessionLine


async def _said(data: bytes, output: Output | None = None) -> list[str]:
    lines: list[SessionLine] = []
    output = output or Output("s", lines.append)
    output._tell = lines.append
    reader, writer = os.pipe()
    os.write(writer, data[:60000])
    os.close(writer)
    await output.follow("stderr", reader)
    os.close(reader)
    return [line.text for line in lines]


async def test_lines_are_whole() -> None:
    """Lines come one by one, empty ones are left out, the last needs no end."""
    assert await _said(b"one\n\ntwo\nthree") == ["one", "two", "three"]


async def test_long_line_is_cut() -> None:
    """A line without end cannot fill memory."""
    said = await _said(b"x" * 10_000 + b"\n")

    assert LINE_BYTES == max(map(len, said))


async def test_flood_is_bounded_and_counted() -> None:
    """What is dropped is counted, and told when there is room again."""
    output = Output("s", lambda _line: None)
    said = await _said(b"line\n" * 1000, output)
    assert BURST_LINES <= len(said) <= BURST_LINES + 5

    output._allowance = 10.0
    assert "lines dropped]" in (await _said(b"again\n", output))[0]


async def test_last_words_are_kept_and_silence_is_kept() -> None:
    """The last lines are there for the fault; after an intended kill nothing is told."""
    output = Output("s", lambda _line: None)
    await _said(b"first\nlast\n", output)
    output.silent = True

    assert output.last_words() == "first | last"
    assert await _said(b"noise\n", output) == []


async def test_secret_is_taken_out_wherever_a_line_would_be_cut() -> None:
    """Before the cut, so that no half of it is left."""
    secret = "t" * 40
    data = b"token " + secret.encode() + b"\n" + b"x" * (LINE_BYTES - 20) + secret.encode() + b"\n"
    lines: list[SessionLine] = []

    said = await _said(data, Output("s", lines.append, secret))
    assert said[0] == "token [redacted]"
    assert "tttt" not in "".join(said)
