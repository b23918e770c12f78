"""Transfers over nodes that a test holds: their turns, losses, cancellations and sums."""

from time import monotonic

import anyio
import pytest

from castrayd.casting import course
from castrayd.refusals import ApiError, RecipientError
from castrayd.telemetry.facts import TransferFinished
from tests.support.nodes import SHA256, Cluster, became, carried, ended, row, sent

OTHER = "cd" * 32
DONE = (row("b", "done"), row("c", "done"))


async def test_sender_that_is_gone_fails_its_transfer() -> None:
    """While the cluster is there, after the patience; begun again, it is waited for anew."""
    async with carried(patience_s=0.6) as (transfers, cluster):
        cluster.gone = {"a"}
        one = await sent(transfers)
        over = await ended(transfers, one)
        assert (over.state, over.parts[0].error or {})[0] == "failed"
        assert "the sender is gone" in (over.reason or "")

        await transfers.retry(one.id)
        await anyio.sleep(0.1)
        cluster.gone = set()
        await became(transfers, one, "running")
        cluster.says(one, "done", *DONE)
        assert (await ended(transfers, one)).state == "done"


async def test_end_is_heard_of_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes until somebody looks again: the sender says when it has ended."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        monkeypatch.setattr(course, "LOOK_S", 5)
        await anyio.sleep(1.3)
        cluster.says(one, "done", *DONE)
        assert (await became(transfers, one, "done", within_s=0.5)).state == "done"
        assert len(cluster.calls) < 20


async def test_sender_that_fails_at_its_plan_fails_its_transfer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be no casting node at all; what it answers before that is no progress."""

    def raising(*_: object) -> None:
        raise RecipientError("internal", "no such method")

    async with carried(patience_s=0.6) as (transfers, cluster):
        monkeypatch.setattr(cluster, "_send", raising)
        one = await sent(transfers)
        await anyio.sleep(0.3)
        assert transfers.show(one.id).state == "queued"
        over = await ended(transfers, one)
        assert (over.state, over.reason) == ("failed", "the sender fails: no such method")
        assert all((part.error or {})["type"] == "internal" for part in over.parts)


@pytest.mark.parametrize("failing", ["sending", "ended"])
async def test_bug_ends_no_transfer(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """In a look at one or in the pause after it: it goes on, and so do the others."""

    def bug(*_: object) -> None:
        raise KeyError("odd")

    async with carried() as (transfers, cluster):
        one, other = await sent(transfers), await sent(transfers, "d", "ef")
        for each in (one, other):
            await became(transfers, each, "running")
        with monkeypatch.context() as patch:
            patch.setattr(cluster, f"_{failing}", bug)
            await anyio.sleep(0.6)
            before = len(cluster.calls)
            await anyio.sleep(0.5)
            assert 0 < len(cluster.calls) - before <= 12
        cluster.says(one, "done", *DONE)
        cluster.says(other, "done", row("e", "done"), row("f", "done"))
        for each in (one, other):
            assert (await ended(transfers, each)).state == "done"


async def test_outage_is_no_silence_of_the_sender() -> None:
    """What was seen before it counts no more: nodes are placed again a moment after."""
    async with carried(patience_s=0.6) as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.gone = {"a"}
        await became(transfers, one, "interrupted")
        cluster.attached = None
        await anyio.sleep(1.0)
        cluster.attach()
        await anyio.sleep(0.4)  # a look falls into it
        cluster.gone = set()
        await became(transfers, one, "running")


async def test_frozen_sender_is_given_up() -> None:
    """One that never answers is as good as gone, and is told to stop for when it wakes."""
    async with carried(patience_s=1.0) as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.frozen = {"a"}
        over = await ended(transfers, one)
        assert over.state == "failed"
        assert all((part.error or {})["type"] == "unreachable" for part in over.parts)
        assert cluster.calls[-1] == ("a", "cancel_sending")


async def test_frozen_sender_holds_up_no_other() -> None:
    """Others start, end and are cancelled as if it were not there; it can be cancelled itself."""
    async with carried() as (transfers, cluster):
        cluster.frozen = {"a"}
        frozen = await sent(transfers)
        await anyio.sleep(0.3)
        began_s = monotonic()
        one, other = await sent(transfers, "b", "de"), await sent(transfers, "f", "de")
        await became(transfers, one, "running")
        await became(transfers, other, "running")
        cluster.says(one, "done", row("d", "done"), row("e", "done"))
        await ended(transfers, one)
        await transfers.cancel(other.id)
        assert monotonic() - began_s < 0.3
        assert (await transfers.cancel(frozen.id)).state == "cancelled"
        assert monotonic() - began_s < 0.8


@pytest.mark.parametrize("known", [True, False])
async def test_cancelled_recipient_that_has_the_file_says_so(known: bool) -> None:
    """It has published it meanwhile: its answer holds, and where it has none, the sender's."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        if known:
            cluster.says(one, "running", row("b", "done"), row("c"), sha256=SHA256)
        else:
            cluster.published["b"] = {"path": "files:x", "bytes": 100, "sha256": SHA256}
        over = await transfers.cancel(one.id)

        assert over.state == "cancelled"
        b, c = over.parts
        assert (b.state, b.path, b.sha256, b.error) == ("done", "files:x", SHA256, None)
        assert (c.state, (c.error or {})["type"]) == ("cancelled", "cancelled")
        assert cluster.records[one.id] == over
        with pytest.raises(ApiError, match="conflict"):
            await transfers.cancel(one.id)


async def test_cancelled_twice_at_once() -> None:
    """One of them is refused, and it can be begun again."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        refused = 0

        async def cancel() -> None:
            nonlocal refused
            try:
                await transfers.cancel(one.id)
            except ApiError:
                refused += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            tasks.start_soon(cancel)
        assert refused == 1
        assert transfers.show(one.id).state == "cancelled"
        await transfers.retry(one.id)
        await became(transfers, one, "running")
        cluster.says(one, "done", *DONE)
        assert (await ended(transfers, one)).state == "done"


async def test_what_cannot_be_written_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, and can be cancelled later."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "put", _full)
            with pytest.raises(OSError, match="full"):
                await transfers.cancel(one.id)
        await anyio.sleep(0.3)
        cluster.says(one, "done", *DONE)
        assert (await ended(transfers, one)).state == "done"


async def _full(*_: object) -> None:
    raise OSError("the disk is full")


async def test_too_many_are_refused() -> None:
    """What waits for its turn is bounded, and keeps its order."""
    async with carried() as (transfers, cluster):
        cluster.attached = None
        accepted = [await sent(transfers, f"n{n}", f"{n:x}") for n in range(16)]
        await anyio.sleep(0.05)
        accepted += [await sent(transfers) for _ in range(1000)]
        with pytest.raises(ApiError, match="busy"):
            await sent(transfers)
        assert [one.id for one in reversed(transfers.all())] == [one.id for one in accepted]
        await transfers.cancel(accepted[500].id)
        await sent(transfers)


async def test_bytes_are_counted_once_and_only_where_they_stay() -> None:
    """Not again when the rest is sent again, and not of what was removed."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.says(one, "partial", row("b", "done"), row("c", "failed"), sha256=SHA256)
        assert (await ended(transfers, one)).state == "partial"
        assert transfers.totals().bytes == 100
        await transfers.retry(one.id)
        await became(transfers, one, "running")
        cluster.says(one, "done", row("c", "done"), sha256=SHA256)
        await ended(transfers, one)
        assert transfers.totals().bytes == 200

        other = await sent(transfers)
        await became(transfers, other, "running")
        cluster.says(other, "running", row("b", bytes_verified=70), row("c"))
        await anyio.sleep(0.3)
        await transfers.cancel(other.id)
        assert transfers.totals().bytes == 200
        told = [fact.bytes_verified for fact in cluster.facts if isinstance(fact, TransferFinished)]
        assert told == [100, 100, 0]


async def test_file_that_was_there_is_not_counted() -> None:
    """It is verified, and shown so; this transfer has not brought it."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        there = {**row("b", "done"), "skipped": True}
        cluster.says(one, "done", there, row("c", "done"), sha256=SHA256)
        over = await ended(transfers, one)
        assert (over.bytes_verified, transfers.totals().bytes) == (200, 100)


@pytest.mark.parametrize(("small", "chunk_mib"), [("f", 16), ("c", 4)])
async def test_store_of_who_takes_no_part_does_not_matter(small: str, chunk_mib: int) -> None:
    """Chunks are fitted to the object stores that they go through."""
    async with carried() as (transfers, cluster):
        cluster.stores[small] = 75.0 * 2**20
        cluster.attach()
        one = await sent(transfers)
        await became(transfers, one, "running")
        assert cluster.plans[0]["chunk_bytes"] == chunk_mib * 2**20


async def test_end_is_seen_at_once() -> None:
    """A small file's is, beside a large one that goes on, which is asked about seldom."""
    async with carried() as (transfers, cluster):
        large = await sent(transfers, "f", "e")
        await became(transfers, large, "running")
        await anyio.sleep(1.2)
        before = len(cluster.calls)
        await anyio.sleep(0.5)
        assert len(cluster.calls) - before <= 6
        began_s = monotonic()
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.says(one, "done", *DONE)
        await ended(transfers, one)
        assert monotonic() - began_s < 0.2  # a look beside the large one comes later


async def test_end_that_is_none_is_not_asked_for_again_and_again() -> None:
    async with carried() as (transfers, cluster):
        cluster.misleads = True
        await became(transfers, await sent(transfers), "running")
        before = len(cluster.calls)
        await anyio.sleep(1.0)
        assert len(cluster.calls) - before < 30


@pytest.mark.parametrize(
    "other", [{"bytes_total": 101}, {"sha256": OTHER}, {"identity": {"size": 100, "mtime_ns": 8}}]
)
async def test_replaced_source_is_not_mixed_in(other: dict[str, object]) -> None:
    """A file that took the first one's place goes to nobody, whatever a new sender makes of it."""
    first = {"sha256": SHA256, "identity": {"size": 100, "mtime_ns": 7}}
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.says(one, "running", row("b", "done"), row("c"), **first)
        await _durable(cluster, one.id)
        cluster.sending.clear()
        await _replanned(cluster, 2)
        assert cluster.plans[1]["identity"] == {"size": 100, "mtime_ns": 7, "sha256": SHA256}
        assert cluster.plans[1]["recipients"] == ["c"]
        cluster.says(one, "running", row("c"), **first | other)
        over = await ended(transfers, one)

        assert over.state == "partial"
        assert (over.sha256, over.bytes_total) == (SHA256, 100)
        assert [part.state for part in over.parts] == ["done", "failed"]
        assert (over.parts[1].error or {})["type"] == "source_changed"
        assert ("a", "cancel_sending") in cluster.calls


async def test_recipient_with_another_file_is_not_done() -> None:
    """Two senders' files at two recipients: one of them has the transfer's."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        rows = row("b", "done"), row("c", "done", sha256=OTHER)
        cluster.says(one, "done", *rows, sha256=OTHER)
        over = await ended(transfers, one)

        assert (over.state, over.sha256) == ("partial", SHA256)
        assert [part.state for part in over.parts] == ["done", "failed"]
        assert (over.parts[1].error or {})["type"] == "source_changed"


async def test_source_is_looked_at_anew_where_nobody_has_it() -> None:
    """Begun again, a transfer that nobody has may be of another file."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.says(one, "failed", row("b", "failed"), row("c", "failed"), sha256=SHA256)
        await ended(transfers, one)
        await transfers.retry(one.id)
        await became(transfers, one, "running")
        rows = [row(name, "done", bytes_verified=50, sha256=OTHER) for name in "bc"]
        cluster.says(one, "done", *rows, bytes_total=50, sha256=OTHER)
        over = await ended(transfers, one)
        assert (over.state, over.sha256, over.bytes_total) == ("done", OTHER, 50)


async def test_sender_that_was_cancelled_by_nobody_is_told_again() -> None:
    """A cancellation that came late, of a run that was given up, does not end the next one."""
    async with carried() as (transfers, cluster):
        one = await sent(transfers)
        await became(transfers, one, "running")
        cluster.says(one, "cancelled", row("b", "cancelled"), row("c", "cancelled"))
        await _replanned(cluster, 2)
        assert transfers.show(one.id).state == "running"


async def _durable(cluster: Cluster, transfer_id: str) -> None:
    with anyio.fail_after(5):
        while cluster.records[transfer_id].parts[0].state != "done":
            await anyio.sleep(0.01)


async def _replanned(cluster: Cluster, times: int) -> None:
    with anyio.fail_after(5):
        while len(cluster.plans) < times:
            await anyio.sleep(0.01)
