"""The event stream: numbering, replay, followers that are slow."""

import anyio

from castrayd.telemetry.events import MISSED, EventLog


def _log(first_seq: int = 1, ring_items: int = 8) -> EventLog:
    return EventLog("stream", first_seq, ring_items)


def _append(log: EventLog, count: int, name: str = "a") -> None:
    for n in range(count):
        log.append("2026-01-01T00:00:00Z", name, {"n": n})


def test_since_known_seq_returns_what_followed() -> None:
    """A follower that was away for a moment gets exactly what it missed."""
    log = _log(first_seq=1_000)
    _append(log, 5)

    replay = log.since(1_002)

    assert [1_003, 1_004] == [item["seq"] for item in replay.items]
    assert not replay.reset


def test_since_last_seq_returns_nothing_and_no_reset() -> None:
    """A follower that has seen everything has missed nothing."""
    log = _log()
    _append(log, 3)

    assert log.since(3).items == ()
    assert not log.since(3).reset
    assert not log.since(0).reset


def test_since_unknown_seq_resets() -> None:
    """Numbers that fell off the ring, of another life or of the future give a reset."""
    log = _log(first_seq=1_000, ring_items=4)
    _append(log, 10)

    assert log.since(1_002).reset
    assert not log.since(1_005).reset
    assert log.since(17).reset
    assert log.since(5_000).reset
    assert [1_006, 1_007, 1_008, 1_009] == [item["seq"] for item in log.since(17).items]


def test_types_filter_replay_and_subscription() -> None:
    """A follower of some types sees only those."""
    log = _log()
    with log.subscribe(types=frozenset({"b"})) as follower:
        _append(log, 2, "a")
        _append(log, 1, "b")

        assert ["b"] == [item["name"] for item in log.since(0, frozenset({"b"})).items]
        assert follower.pending == 1


async def test_slow_follower_is_told_how_many_it_missed() -> None:
    """Nothing is lost silently: the gap is an item of its own, with its size."""
    log = _log(ring_items=100)
    with log.subscribe(capacity=3) as follower:
        _append(log, 10)
        items = []
        with anyio.fail_after(2):
            async for item in follower:
                items.append(item)
                if item["seq"] == 10:
                    break

    assert [MISSED, "a", "a", "a"] == [item["name"] for item in items]
    assert items[0]["missed"] == 7


async def test_follower_wakes_for_an_event_that_comes_later() -> None:
    """A follower that waits gets the next event without polling."""
    log = _log()
    seen = []
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(2), log.subscribe() as follower:

            async def later() -> None:
                await anyio.sleep(0.01)
                _append(log, 1)

            tasks.start_soon(later)
            async for item in follower:
                seen.append(item["seq"])
                break

    assert seen == [1]


def test_unsubscribed_follower_gets_nothing() -> None:
    """Leaving the block ends the subscription."""
    log = _log()
    with log.subscribe() as follower:
        pass
    _append(log, 1)

    assert follower.pending == 0


def test_earlier_lives_are_replayed_and_what_they_lost_is_a_reset() -> None:
    """A follower of the life before goes on; one that has seen more than was kept is told so."""
    log = _log(first_seq=1_000)
    log.restore({"seq": seq, "at": "t", "name": "a"} for seq in (7, 8, 9))
    _append(log, 2)

    assert [9, 1_000, 1_001] == [item["seq"] for item in log.since(8).items]
    assert [log.since(seq).reset for seq in (5, 6, 9, 10, 999, 1_001)] == [
        True, False, False, True, True, False,
    ]  # fmt: skip
    assert [7, 8, 9, 1_000, 1_001] == [item["seq"] for item in log.since(10).items]
