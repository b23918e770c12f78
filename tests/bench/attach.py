"""Attaching and noticing: `python -m tests.bench.attach` prints each figure beside its measure.

Each row is measured in this run, on this machine, against the bare thing that it is compared with.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psutil

from tests.support.daemon import Daemon, running_daemon
from tests.support.peers import refused
from tests.support.ray import RayHead, ray_head

FLOOR = "import aiohttp.web, anyio, structlog"
BARE = """
import os, ray
ray.init({address!r}, log_to_driver=False, configure_logging=False)
os._exit(0)
"""
ROUNDS = 5


missed: list[str] = []
"""What has not reached its number in this run."""


def row(what: str, ours: float, against: float | None, unit: str, reach: str) -> None:
    """Print one line of the table, and note whether `reach` was reached."""
    ratio = f"{ours / against:8.2f} x" if against else " " * 10
    other = f"{against:10.2f}" if against is not None else " " * 10
    good = not reach or _reached(ours, against or 0.0, reach)
    missed.extend([] if good else [what])
    sign = " " if good else "!"
    print(f"{what:<44} {ours:10.2f} {other} {unit:<4} {ratio} {sign}{reach}", flush=True)


def _reached(ours: float, against: float, reach: str) -> bool:
    """Compare with `<= 1.3 x` (of what it stands against), `<= bare + 1500 ms` or `< 10 ms`."""
    sign, *words = reach.split()
    number = float(words[-2])
    if words[-1] == "x":
        number *= against
    elif words[0] == "bare":
        number += against
    return ours >= number if sign == ">=" else ours <= number


def median_ms(run: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median wall time of `run`, in milliseconds."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def python(code: str, **environ: str) -> Callable[[], Any]:
    """Run code in a fresh interpreter."""
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", **environ}
    return lambda: subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True
    )


def at_ms(event: dict[str, Any]) -> float:
    """When an event happened, in milliseconds of wall time."""
    return datetime.fromisoformat(event["at"]).timestamp() * 1000


async def start() -> None:
    """Daemon start to first answer, and the class of a refused port."""
    floors, starts, refusals = [], [], []
    async with refused() as address:
        for _ in range(ROUNDS):
            floors.append(median_ms(python(FLOOR), 1))
            async with running_daemon(address=address, launch=False) as daemon:
                began = time.perf_counter()
                daemon.launch()
                while not daemon.socket.exists():
                    await anyio.sleep(0.001)
                await daemon.answers()
                starts.append((time.perf_counter() - began) * 1000)
                await daemon.wait_status("an attempt", lambda s: s["error"] is not None)
                first = (await daemon.events("castray.connection.attempt"))[0]
                refusals.append(first["duration_s"] * 1000)
    row("start to first answer / import floor", statistics.median(starts),
        statistics.median(floors), "ms", "<= 1.3 x")  # fmt: skip
    row("typed failure on a refused port", statistics.median(refusals), None, "ms", "< 10 ms")


async def live(head: RayHead) -> None:
    """An attempt on a live cluster, ray warm, against bare import and ray.init."""
    bare = median_ms(python(BARE.format(address=head.address)), 3)
    cold, warm = [], []
    for _ in range(3):
        async with running_daemon(address=head.address) as daemon:
            status = await daemon.wait_state("connected")
            cold.append(status["attempt"]["duration_s"] * 1000)
        async with refused() as nothing, running_daemon(address=nothing) as daemon:
            await daemon.wait_status("a failure", lambda s: s["error"] is not None)
            await anyio.sleep(2.0)  # until a session stands by
            await daemon.post("/api/reconnect", {"address": head.address})
            status = await daemon.wait_state("connected")
            assert status["session"]["standby"]
            warm.append(status["attempt"]["duration_s"] * 1000)
    row("attempt, cold / bare import + init", statistics.median(cold), bare, "ms", "")
    row("attempt, ray warm / bare import + init", statistics.median(warm), bare, "ms", "<= 0.3 x")


async def _noticed(daemon: Daemon, pid: int, number: signal.Signals) -> float:
    since_ms = time.time() * 1000
    os.kill(pid, number)
    event = await daemon.wait_event(
        "castray.state.changed", lambda e: e["to"] == "degraded" and at_ms(e) > since_ms, 10
    )
    return at_ms(event) - since_ms


async def losses() -> None:
    """From the kill to `degraded`, and from the return to `connected`."""
    lost: dict[str, list[float]] = {"gcs": [], "raylet": [], "frozen": []}
    back, bare = [], []
    for _ in range(3):
        with ray_head() as head:
            async with running_daemon(address=head.address) as daemon:
                await daemon.wait_state("connected")
                await anyio.sleep(1.0)
                gcs, raylet = head.gcs_pid, head.raylet
                assert gcs is not None
                assert raylet is not None
                lost["frozen"].append(await _noticed(daemon, gcs, signal.SIGSTOP))
                os.kill(gcs, signal.SIGCONT)
                await daemon.wait_state("connected")
                lost["raylet"].append(await _noticed(daemon, raylet.pid, signal.SIGKILL))
                head.kill()
                head.start(wait=False)
                await daemon.wait_state("connected", 40)
                gcs = head.gcs_pid
                assert gcs is not None
                lost["gcs"].append(await _noticed(daemon, gcs, signal.SIGKILL))
                head.kill()
                await anyio.sleep(2)
                head.start(wait=False)
                while head.gcs_pid is None:
                    await anyio.sleep(0.02)
                good = time.time() * 1000
                began = time.perf_counter()
                with anyio.move_on_after(60):
                    await anyio.to_thread.run_sync(python(BARE.format(address=head.address)))
                bare.append((time.perf_counter() - began) * 1000)
                event = await daemon.wait_event(
                    "castray.state.changed",
                    lambda e, g=good: e["to"] == "connected" and at_ms(e) > g,
                )
                back.append(at_ms(event) - good)
    row("GCS killed, until degraded", statistics.median(lost["gcs"]), None, "ms", "< 50 ms")
    row("raylet killed, until degraded", statistics.median(lost["raylet"]), None, "ms", "< 50 ms")
    row("GCS frozen, until degraded", statistics.median(lost["frozen"]), None, "ms", "< 4500 ms")
    row("cluster back, until connected / bare", statistics.median(back), statistics.median(bare),
        "ms", "<= bare + 1500 ms")  # fmt: skip


async def _rate(path: str, target: str, count: int = 3000) -> tuple[float, float]:
    """Requests a second and p99 in ms, over one connection."""
    took = []
    async with aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(path)) as client:
        began = time.perf_counter()
        for _ in range(count):
            one = time.perf_counter()
            async with client.get(target) as response:
                await response.read()
            took.append((time.perf_counter() - one) * 1000)
        whole = time.perf_counter() - began
    return count / whole, statistics.quantiles(took, n=100)[98]


BARE_SERVER = """
import sys
from aiohttp import web
body = open(sys.argv[2], "rb").read()
async def handler(request): return web.Response(body=body, content_type="application/json")
app = web.Application(); app.router.add_get("/api/status", handler)
web.run_app(app, path=sys.argv[1], access_log=None, print=None)
"""


async def control(head: RayHead) -> None:
    """The control socket against a bare aiohttp handler that sends the same bytes."""
    rates, bares, p99s = [], [], []
    async with running_daemon(address=head.address) as daemon:
        await daemon.wait_state("connected")
        body = daemon.folder / "body"
        body.write_text(str(await daemon.status()))
        path = str(daemon.folder / "bare")
        server = subprocess.Popen([sys.executable, "-c", BARE_SERVER, path, str(body)])
        try:
            while not Path(path).exists():
                await anyio.sleep(0.02)
            for _ in range(3):
                rate, p99 = await _rate(str(daemon.socket), "/api/status")
                rates.append(rate)
                p99s.append(p99)
                bares.append((await _rate(path, "/api/status"))[0])
        finally:
            server.kill()
            server.wait()
        row("GET /api/status, requests / s", statistics.median(rates), statistics.median(bares),
            "/s", ">= 0.8 x")  # fmt: skip
        row("GET /api/status, p99", statistics.median(p99s), None, "ms", "<= 10 ms")
        ctl = "from castrayd.cli.castrayctl import main; main()"
        ask = [sys.executable, "-c", ctl, "--socket", str(daemon.socket), "status"]
        ours, click = [], []
        for _ in range(ROUNDS * 2):
            ours.append(median_ms(lambda: subprocess.run(ask, capture_output=True, check=True), 1))
            click.append(median_ms(python("import click"), 1))
        row("castrayctl status / import click", statistics.median(ours), statistics.median(click),
            "ms", "<= 1.5 x")  # fmt: skip


async def idle(head: RayHead) -> None:
    """The daemon's own cost while connected and left alone."""
    async with running_daemon("--log-level=info", address=head.address) as daemon:
        await daemon.wait_state("connected")
        await anyio.sleep(5)
        process = psutil.Process(daemon.pid)
        before = sum(process.cpu_times()[:2])
        await anyio.sleep(30)
        spent = sum(process.cpu_times()[:2]) - before
        row("idle daemon, RSS", process.memory_info().rss / 2**20, None, "MB", "<= 70 MB")
        row("idle daemon, of a core", spent / 30 * 100, None, "%", "<= 0.5 %")


async def main() -> None:
    """Measure everything."""
    print(f"{'what':<44} {'castrayd':>10} {'against':>10}")
    await start()
    with ray_head() as head:
        await live(head)
        await control(head)
        await idle(head)
    await losses()


if __name__ == "__main__":
    anyio.run(main)
    sys.exit(f"not reached: {', '.join(missed)}" if missed else 0)
