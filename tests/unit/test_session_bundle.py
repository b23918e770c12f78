"""Messages for many nodes in few frames, as a session sends them."""

from typing import Any

import anyio
import pytest

from castrayd.session.bundle import FRAME_CHARACTERS, Bundle


async def test_large_message_goes_out_once_to_ten_thousand() -> None:
    """One frame has it once; each node has an id of its own, and the first call waits for none."""
    frames: list[dict[str, Any]] = []
    bundle = Bundle(frames.append)
    row = ("m", "me", "x" * 65_536)
    for number in range(10_000):
        bundle.add(number, f"n{number}", [row], 5.0)
    assert not frames
    await anyio.sleep(0)

    (frame,) = frames
    assert frame["op"] == "cast.deliver"
    assert frame["rows"] == [row]
    assert frame["calls"] == [(number, f"n{number}", [0], 5.0) for number in range(10_000)]


async def test_each_node_has_its_own_messages_in_its_order() -> None:
    """What is handed over later goes in a frame of its own."""
    frames: list[dict[str, Any]] = []
    bundle = Bundle(frames.append)
    one, two = ("1", "me", "1"), ("2", "me", "2")
    bundle.add(1, "a", [one, two], 5.0)
    bundle.add(2, "b", [two], 5.0)
    await anyio.sleep(0)
    bundle.add(3, "a", [one], 1.0)
    await anyio.sleep(0)

    assert [frame["calls"] for frame in frames] == [
        [(1, "a", [0, 1], 5.0), (2, "b", [1], 5.0)], [(3, "a", [0], 1.0)],
    ]  # fmt: skip
    assert [frame["rows"] for frame in frames] == [[one, two], [one]]


@pytest.mark.parametrize("size", [65_536, 1024 * 1024])
async def test_no_frame_is_larger_than_the_wire_takes(size: int) -> None:
    """Of different messages, as many go together as one frame holds."""
    frames: list[dict[str, Any]] = []
    bundle = Bundle(frames.append)
    for number in range(200):
        bundle.add(number, "a", [(str(number), "me", "x" * size)], 5.0)
    await anyio.sleep(0)

    sizes = [sum(len(row[2]) for row in frame["rows"]) for frame in frames]
    assert sum(sizes) == 200 * size
    assert max(sizes) <= FRAME_CHARACTERS + size
    assert [call[0] for frame in frames for call in frame["calls"]] == list(range(200))
