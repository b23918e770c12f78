"""Casting nodes as this driver sees them: made, found, removed, and called.

Requests come from `main`, beside the heartbeat, and wait here on an event loop in a thread of its
own: a call to a node that does not answer holds up no other. Every answer is `{"value": ...}`, or
`{"error": {"type", "message"}}` of what became of the one node.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from castrayd.driver.caster.remote import awaited

__all__ = ("PREFIX", "Casting")

PREFIX = "cast."
"""Of the operations that come here."""

DEEPEST = 20
"""Of what is in what an actor answers: the daemon would take it with another stack than ours."""

Answer = dict[str, Any]
Work = Coroutine[Any, Any, Answer]


class _NotFoundError(Exception):
    """Raised where a node cannot even be asked: nothing has gone out to it."""


class Casting:
    """One per driver. `submit` never waits; `answer` is called from this thread.

    It is given the id of what is answered: of a request, or of one call of `cast.deliver`.
    """

    def __init__(self, answer: Callable[[int, Answer], None]) -> None:
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handles: dict[str, Any] = {}
        self._actor: Any = None
        self._operations: dict[str, Callable[[dict[str, Any]], Work]] = {
            "cast.make": self._make,
            "cast.remove": self._remove,
            "cast.names": self._names,
            "cast.describe": self._describe,
            "cast.call": self._call,
        }
        threading.Thread(target=self._loop.run_forever, name="casting", daemon=True).start()

    def submit(self, request: dict[str, Any]) -> None:
        """Perform a request and have it answered, whatever Ray raises."""
        begin = self._deliver if request["op"] == "cast.deliver" else self._begin
        self._loop.call_soon_threadsafe(begin, request)

    def _begin(self, request: dict[str, Any]) -> None:
        self._start(request["id"], self._operations[request["op"]](request))

    def _deliver(self, request: dict[str, Any]) -> None:
        """Hand messages to many nodes; all calls go out before any is awaited."""
        rows = request["rows"]
        for id_, name, which, timeout_s in request["calls"]:
            arguments = [[rows[number] for number in which]]
            self._start(id_, self._asked(name, "deliver", arguments, timeout_s))

    def _start(self, id_: int, work: Work) -> None:
        task = self._loop.create_task(self._perform(id_, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, id_: int, work: Work) -> None:
        try:
            result = await work
            _refuse_deep(result, DEEPEST)
            self._answer(id_, result)  # which raises where it is no JSON, or too much of it
        except BaseException as error:  # noqa: BLE001  every request is answered
            self._answer(id_, _failure(error))

    async def _make(self, request: dict[str, Any]) -> Answer:
        """Make a node where there is none of its name; says which actor is there then.

        That needs no answer of it: its id is known also while it is frozen, or starts again.
        """
        spec = request["spec"]
        actor = _actor_name(spec["name"])
        handle, is_new = await asyncio.to_thread(self._found_or_made, actor, spec)
        self._handles[actor] = handle
        return {"value": {"actor_id": await _id_of(handle), "is_new": is_new}}

    def _found_or_made(self, actor: str, spec: dict[str, Any]) -> tuple[Any, bool]:
        handle = _find(actor)
        if handle is not None:
            return handle, False
        try:
            return self._made(actor, spec), True
        except ValueError:  # another daemon was quicker
            return _found(actor), False

    def _made(self, actor: str, spec: dict[str, Any]) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        return self._class().options(
            name=actor,
            lifetime="detached",
            # hard: elsewhere it would be another node under the same name
            scheduling_strategy=NodeAffinitySchedulingStrategy(spec["node_id"], soft=False),
        ).remote(spec)  # fmt: skip

    def _class(self) -> Any:
        """Return the actor class, which goes to the cluster by value."""
        if self._actor is None:
            import ray  # noqa: PLC0415

            from castrayd.driver import caster  # noqa: PLC0415
            from castrayd.driver.caster.actor import GROUPS, METHODS, Caster  # noqa: PLC0415

            ray.cloudpickle.register_pickle_by_value(caster)
            for group, names in METHODS.items():
                for name in names:
                    ray.method(concurrency_group=group)(getattr(Caster, name))
            options: dict[str, Any] = {"concurrency_groups": GROUPS, "max_restarts": -1}
            self._actor = ray.remote(num_cpus=0, enable_task_events=False, **options)(Caster)
        return self._actor

    async def _remove(self, request: dict[str, Any]) -> Answer:
        """End a node for good if it is the actor with this id; says whether it was.

        Without an id whatever has the name is meant.
        """
        actor, actor_id = _actor_name(request["name"]), request["actor_id"]
        handle = await asyncio.to_thread(_find, actor)
        if handle is None or actor_id not in {None, await _id_of(handle)}:
            return {"value": False}
        await asyncio.to_thread(_kill, handle)
        self._handles.pop(actor, None)
        return {"value": True}

    async def _names(self, _request: dict[str, Any]) -> Answer:
        """Return the names of all casting nodes of this namespace, of every owner."""
        import ray  # noqa: PLC0415

        mine = _actor_name("")
        found = await asyncio.to_thread(ray.util.list_named_actors)
        return {"value": sorted(one.removeprefix(mine) for one in found if one.startswith(mine))}

    async def _describe(self, request: dict[str, Any]) -> Answer:
        """Return what a node says of itself, and which actor has said it."""
        actor = _actor_name(request["name"])
        handle = await self._handle(actor)
        answer = await self._ask(actor, "describe", [], request["timeout_s"])
        return {"value": {**answer["value"], "actor_id": await _id_of(handle)}}

    async def _call(self, request: dict[str, Any]) -> Answer:
        arguments, timeout_s = request["arguments"], request["timeout_s"]
        return await self._asked(request["name"], request["method"], arguments, timeout_s)

    async def _asked(
        self, name: str, method: str, arguments: list[Any], timeout_s: float
    ) -> Answer:
        actor = _actor_name(name)
        await self._handle(actor)
        return await self._ask(actor, method, arguments, timeout_s)

    async def _handle(self, actor: str) -> Any:
        if actor not in self._handles:
            self._handles[actor] = await asyncio.to_thread(_found, actor)
        return self._handles[actor]

    async def _ask(self, actor: str, method: str, arguments: list[Any], timeout_s: float) -> Answer:
        """Call a method of a node. A handle that has failed is looked up anew the next time."""
        handle = self._handles[actor]
        try:
            reference = getattr(handle, method).remote(*arguments)
            return {"value": await asyncio.wait_for(awaited(reference), timeout_s)}
        except BaseException:
            if self._handles.get(actor) is handle:
                del self._handles[actor]
            raise


def _refuse_deep(value: Any, left: int) -> None:
    if not isinstance(value, dict | list | tuple):
        return
    if not left:
        raise ValueError("its answer is nested too deep")
    for one in value.values() if isinstance(value, dict) else value:
        _refuse_deep(one, left - 1)


def _found(actor: str) -> Any:
    """Return the handle of a node. Raises where nothing can be asked of it."""
    try:
        handle = _find(actor)
    except Exception as error:
        raise _NotFoundError(f"{type(error).__name__}: {error}") from error
    if handle is None:
        raise _NotFoundError("there is no such casting node")
    return handle


def _find(actor: str) -> Any:
    """Return the handle of a node, or None where there surely is none."""
    import ray  # noqa: PLC0415

    try:
        return ray.get_actor(actor)
    except ValueError:
        return None


def _kill(handle: Any) -> None:
    import ray  # noqa: PLC0415

    ray.kill(handle, no_restart=True)


async def _id_of(handle: Any) -> str:
    """Return an actor's id; Ray has no public name for it, and Ray Client may have to ask."""
    return str(await asyncio.to_thread(handle._actor_id.hex))  # noqa: SLF001


def _actor_name(name: str) -> str:
    from castrayd.driver.caster.actor import actor_name  # noqa: PLC0415  with sqlite3 and more

    return actor_name(name)


def _failure(error: BaseException) -> Answer:
    """Say what became of the node that was asked.

    It is `unreachable` where nothing went out to it. A call that was under way may have been
    carried out, however it failed: `timed_out`, `interrupted` where the node has died, `internal`.
    """
    from ray.exceptions import ActorUnavailableError, RayActorError  # noqa: PLC0415

    match error:
        case _NotFoundError():
            kind, text = "unreachable", str(error)
        case asyncio.TimeoutError():
            kind, text = "timed_out", "no answer in time"
        case ActorUnavailableError():
            kind, text = "timed_out", "it became unavailable"
        case RayActorError():
            kind, text = "interrupted", str(error)
        case _:
            kind, text = "internal", f"{type(error).__name__}: {error}"
    return {"error": {"type": kind, "message": " ".join(text.split())[:500]}}
