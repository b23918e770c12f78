"""One file on its way from this casting node to others, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from typing import Any

from castrayd.driver.caster.roots import FileRefusal, Roots, refusal_of
from castrayd.driver.caster.sending import Sending
from castrayd.driver.caster.source import Source
from castrayd.driver.caster.tally import standing

__all__ = ("Outgoing",)


class Outgoing:
    """A transfer by its plan. A later process that is given the same plan goes on with it.

    `plan` is `{"id", "source": "root:path", "path": "root:path", "chunk_bytes", "window",
    "if_exists", "rate": bytes/s or None, "patience_s", "recipients": [{"name", "actor"}],
    "identity"?: {"size", "mtime_ns", "sha256"}}`.
    """

    def __init__(self, plan: dict[str, Any], roots: Roots, namespace: str) -> None:
        self._plan = plan
        self._roots = roots
        self._namespace = namespace
        self._sending: Sending | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._over = threading.Event()
        self._error: dict[str, Any] | None = None

    def start(self) -> None:
        """Begin to send."""
        name = f"send-{self._plan['id']}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def cancel(self) -> None:
        """Stop sending; what the recipients have of the file is removed. Idempotent."""
        with self._lock:
            again, self._is_cancelled = self._is_cancelled, True
            if self._loop and self._task and not again:  # a second one would stop the tidying
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait(self, wait_s: float) -> None:
        """Wait so long for its end."""
        self._over.wait(wait_s)

    def progress(self) -> dict[str, Any]:
        """Return where the transfer and each recipient stand."""
        is_over, sending = self._over.is_set(), self._sending  # first: the rest is then as it ended
        rows = [one.progress() for one in sending.recipients] if sending else self._unbegun()
        return {
            "id": self._plan["id"],
            "state": _state({row["state"] for row in rows}) if is_over else "running",
            "bytes_total": sending.source.size if sending else None,
            "sha256": sending.source.sha256 if sending else None,
            "identity": sending.source.identity if sending else None,
            "error": self._error,
            "recipients": rows,
        }

    def _unbegun(self) -> list[dict[str, Any]]:
        """Return the recipients of a transfer that has not begun, and may never have."""
        ended = "failed" if self._error else "cancelled"
        state = ended if self._over.is_set() else "running"
        return [standing(one["name"], state, self._error) for one in self._plan["recipients"]]

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass  # as was wanted
        except FileRefusal as refusal:
            self._error = refusal.document()["error"]
        except OSError as error:
            self._error = refusal_of(error, self._plan["source"]).document()["error"]
        except Exception as error:  # noqa: BLE001  else nobody would ever hear of its end
            traceback.print_exception(type(error), error, error.__traceback__)
            self._error = {"type": "internal", "message": f"{type(error).__name__}: {error}"}
        finally:
            self._close()
            self._over.set()

    def _close(self) -> None:
        with self._lock:
            self._loop = None
        with contextlib.suppress(OSError):  # it was only read
            if self._sending:
                self._sending.close()

    async def _main(self) -> None:
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if self._is_cancelled:
                return
        source = Source(self._roots.open_file(self._plan["source"]), self._plan["chunk_bytes"])
        try:
            source.must_be(self._plan.get("identity") or {})
        except FileRefusal:
            source.close()
            raise
        self._sending = Sending(self._plan, source, self._namespace)
        await self._sending.run()


def _state(ends: set[str]) -> str:
    if "cancelled" in ends:
        return "cancelled"
    if "done" not in ends:
        return "failed"
    return "partial" if "failed" in ends else "done"
