"""How castrayctl shows the API's documents to people, in a pipe and on a terminal."""

import re
from dataclasses import asdict
from typing import Any

import pytest

from castrayd.cli import render, terminal
from castrayd.cli.terminal import clean
from castrayd.errors import ERROR_CLASSES

AT = "2026-01-02T03:04:05.678901Z"
REFUSED: dict[str, Any] = {
    "type": "tcp_refused", "phase": "tcp", "message": "head:6379: connection refused",
    "retry": "transient", "hint": "Start the head.", "code": "ECONNREFUSED",
}  # fmt: skip
FEW = {**REFUSED, "type": "nodes_missing", "phase": "attached", "message": "1 of 3 nodes"}
SLOW = {**REFUSED, "type": "session_unresponsive", "phase": "attached", "message": "no answer"}
FAILED: dict[str, Any] = {
    "id": "2d8d-7", "number": 7, "trigger": "retry", "outcome": "failure", "started_at": AT,
    "duration_s": 0.0051, "phases": {"resolve": 0.00003, "tcp": 0.0006}, "error": REFUSED,
    "address": "head:6379", "source": "config", "candidates": [],
}  # fmt: skip
PHASES = {"tcp": 0.001, "init": 1.0, "nodes": 0.2}
DONE = {**FAILED, "outcome": "success", "duration_s": 1.25, "phases": PHASES, "error": None}
DISCONNECTED: dict[str, Any] = {
    "daemon": {"id": "d", "version": "0.1.0", "pid": 42, "started_at": AT, "uptime_s": 90061},
    "state": "disconnected", "since": AT, "state_s": 3723.0,
    "desired": "up", "desired_by": "", "desired_reason": "", "error": REFUSED, "reasons": [],
    "address": {"url": "head:6379", "source": "config", "mode": "driver"},
    "namespace": "castray", "session": None, "cluster": None, "attempt": FAILED,
    "next_retry_at": AT, "next_retry_in_s": 12.34, "warnings": [],
    "casting": {"desired": 0, "ready": 0}, "transfers": {"active": 0},
}  # fmt: skip
CLUSTER = {
    "id": "c1ce", "ray_version": "2.60.0", "dashboard_url": None, "nodes_alive": 3,
    "nodes_dead": 0, "resources_total": {"CPU": 96.0, "memory": 1e12}, "resources_available": None,
}  # fmt: skip
CONNECTED = {
    **DISCONNECTED, "state": "connected", "error": None, "cluster": CLUSTER, "attempt": DONE,
    "session": {"id": "s", "pid": 43, "python": "3.11.7", "ray": "2.60.0", "standby": True},
    "next_retry_at": None, "next_retry_in_s": None,
}  # fmt: skip
NODE: dict[str, Any] = {
    "node_id": "0123456789abcdef", "alive": True, "address": "10.0.0.1", "hostname": "a",
    "head": True, "resources": {"CPU": 2.0, "memory": 3 * 2**30}, "labels": {},
    "death_reason": None, "casting_nodes": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe, or with the mark `usefixtures("colour")` as on a terminal."""
    for module in (terminal, render):
        monkeypatch.setattr(module, "coloured", lambda: "colour" in request.fixturenames)


@pytest.fixture
def colour() -> None:
    """Ask `_output` for a terminal."""


def _status(document: dict[str, Any]) -> str:
    return "\n".join(render.status_lines(document))


def _plain(lines: Any) -> list[str]:
    return [re.sub("\x1b[^m]*m", "", line) for line in lines]


# --- status ---


def test_disconnected_says_why_what_to_do_and_when_next() -> None:
    """The whole look, line by line; nothing that is not known is named."""
    assert _status(DISCONNECTED).splitlines() == [
        "disconnected for 1 h 2 min, since 2026-01-02 03:04:05Z",
        "  why        tcp_refused in tcp: head:6379: connection refused",
        "             → Start the head.",
        "  next try   in 12.3 s, after 7 tries",
        "  address    head:6379  config, driver",
        "  namespace  castray",
        "  attempt    2d8d-7 failure tcp_refused after 5.1 ms (retry)",
        "             resolve 0.0  tcp 0.6 ms",
        "  daemon     castrayd 0.1.0, pid 42, up 1 d 1 h",
    ]


def test_connected_shows_cluster_and_session_and_no_fault() -> None:
    """Who is attached to what, with which versions."""
    assert _status(CONNECTED).splitlines() == [
        "connected for 1 h 2 min, since 2026-01-02 03:04:05Z",
        "  address    head:6379  config, driver",
        "  nodes      3 alive, 96 CPU",
        "  cluster    c1ce, Ray 2.60.0",
        "  session    pid 43, Python 3.11.7, Ray 2.60.0",
        "  namespace  castray",
        "  attempt    2d8d-7 success after 1.2 s (retry)",
        "             tcp 1.0  init 1000.0  nodes 200.0 ms",
        "  daemon     castrayd 0.1.0, pid 42, up 1 d 1 h",
    ]


def test_casting_is_told_where_there_is_any() -> None:
    """Its own nodes, those that are missing, and what is under way."""
    for ready, active, told in (
        (4, 0, "casting    4 ready"),
        (3, 1, "casting    3 of 4 ready, 1 transfer under way"),
        (4, 2, "casting    4 ready, 2 transfers under way"),
    ):
        more = {"casting": {"desired": 4, "ready": ready}, "transfers": {"active": active}}
        assert f"  {told}\n" in _status({**CONNECTED, **more})


def test_degraded_names_every_reason_the_first_first() -> None:
    """Reasons go before an error that is over; the dead are counted."""
    cluster = {**CLUSTER, "nodes_alive": 1, "nodes_dead": 2, "id": None}
    reasons = {"state": "degraded", "reasons": [FEW, SLOW], "error": REFUSED, "cluster": cluster}
    shown = _status({**CONNECTED, **reasons})

    assert shown.index("nodes_missing in attached: 1 of 3") < shown.index("session_unresponsive")
    assert "tcp_refused" not in shown
    assert "nodes      1 alive, 2 dead, 96 CPU" in shown
    assert "cluster    id unknown, Ray 2.60.0" in shown


def test_paused_says_who_and_why() -> None:
    """What is desired is shown when it is not the usual."""
    paused = {"desired": "paused", "desired_by": "uid 0", "desired_reason": "upgrade"}
    shown = _status({**DISCONNECTED, **paused, "next_retry_in_s": None, "error": None})

    assert "  desired    paused by uid 0: upgrade" in shown
    assert "next try" not in shown
    assert "why" not in shown
    assert "desired" not in _status(DISCONNECTED)


def test_before_the_first_attempt_there_is_little_to_show() -> None:
    """A daemon that has just started."""
    shown = _status({**DISCONNECTED, "error": None, "attempt": None, "address": None})

    assert "next try   in 12.3 s\n" in shown
    assert "attempt" not in shown


def test_warnings_come_last_with_their_hints() -> None:
    """Standing warnings are no fault of the attachment."""
    warning = {
        "code": "x",
        "severity": "warning",
        "message": "disk full",
        "hint": "rm",
        "since": AT,
    }

    *_, text, hint = render.status_lines({**CONNECTED, "warnings": [warning]})

    assert ["  ! disk full", "    rm"] == [text, hint]


@pytest.mark.usefixtures("colour")
def test_terminal_gets_colour_and_charts_and_the_same_words() -> None:
    """Nothing but colour, dots and charts is added."""
    headline, *rest = render.status_lines(CONNECTED)

    assert "\x1b[32;1mconnected\x1b[0m" in headline
    assert "● connected for 1 h 2 min" in _plain([headline])[0]
    assert any("tcp ▁ 1.0  init █ 1000.0  nodes ▂ 200.0 ms" in line for line in _plain(rest))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 ms"), (0.0051, "5.1 ms"), (1, "1.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"),
     (125, "2 min 5 s"), (3600, "1 h 0 min"), (86399, "23 h 59 min"), (90061, "1 d 1 h")],
)  # fmt: skip
def test_durations_have_the_unit_that_suits(seconds: float, expected: str) -> None:
    """From a minute on the two largest units."""
    assert f"disconnected for {expected}, since" in _status({**DISCONNECTED, "state_s": seconds})


# --- attempts ---


def test_attempts_are_a_table() -> None:
    """One row each, columns aligned, in a pipe the phases by name."""
    running = {**FAILED, "id": "2d8d-18", "outcome": None, "error": None, "phases": {}}
    head, *rows = render.attempts_lines([running, FAILED])

    assert head.split() == ["id", "n", "started", "trigger", "outcome", "took", "phases", "error"]
    assert rows[0].startswith("2d8d-18  7  2026-01-02 03:04:05Z  retry    under way  5.1 ms")
    assert rows[1].startswith("2d8d-7   7  2026-01-02 03:04:05Z  retry    failure    5.1 ms")
    assert rows[1].endswith("  resolve=0.0000,tcp=0.0006  tcp_refused")
    assert [head.split()] == [line.split() for line in render.attempts_lines([])]


def test_attempt_without_candidates_shows_its_own_phases() -> None:
    """It failed before there was any, or is under way."""
    assert list(render.attempt_lines(FAILED)) == [
        "2d8d-7 failure tcp_refused after 5.1 ms (retry)",
        "  started 2026-01-02 03:04:05Z, number 7",
        "  head:6379  config",
        "    resolve          0.0 ms",
        "    tcp              0.6 ms   failed",
        "    tcp_refused: head:6379: connection refused",
        "    → Start the head.",
    ]


def test_attempt_shows_each_candidate_with_its_own_end() -> None:
    """In the order in which they were tried; what failed is marked where it failed."""
    seen = {"addresses": "10.0.0.1:1", "cluster_id": None}
    tried = [
        {
            "address": "a:1",
            "source": "config",
            "phases": {"tcp": 0.5},
            "error": REFUSED,
            "seen": seen,
        },
        {"address": "b:2", "source": "raylet", "phases": {"tcp": 0.1, "init": 1.0}, "error": None},
    ]
    assert list(render.attempt_lines({**DONE, "candidates": tried}))[2:] == [
        "  a:1  config",
        "    tcp            500.0 ms   failed",
        "    addresses 10.0.0.1:1",
        "    tcp_refused: head:6379: connection refused",
        "    → Start the head.",
        "  b:2  raylet",
        "    tcp            100.0 ms",
        "    init          1000.0 ms",
    ]


@pytest.mark.usefixtures("colour")
def test_terminal_gets_bars_as_long_as_their_share() -> None:
    """The longest is whole, the shortest still seen, none is longer than its room."""
    lines = _plain(render.attempt_lines(DONE))
    bars = {line.split()[0]: line.split()[-1] for line in lines if line.startswith("    ")}

    assert "█" * render.BAR_CELLS == bars["init"]
    assert bars["tcp"] == "▏"
    assert bars["nodes"] == "████▊"
    assert _plain(render.attempts_lines([DONE]))[1].endswith("▁█▂")
    assert list(render.attempt_lines({**DONE, "phases": {"tcp": 0.0}}))


# --- nodes, reload, events ---


def test_nodes_are_a_table_the_living_first() -> None:
    """The dead come last and say why."""
    dead = {**NODE, "alive": False, "head": False, "death_reason": "gone", "node_id": "ff" * 28}
    other = {**NODE, "hostname": "b", "head": False, "resources": {}}
    other["casting_nodes"] = ["demo", "x"]
    head, *rows = [line.split() for line in render.nodes_lines([dead, other, NODE])]

    assert head == ["node", "state", "address", "hostname", "CPU", "memory", "casting"]
    assert rows == [
        ["0123456789ab", "alive", "10.0.0.1", "a", "2", "3.0", "GiB", "head"],
        ["0123456789ab", "alive", "10.0.0.1", "b", "0", "0.0", "GiB", "demo,", "x"],
        ["ffffffffffff", "dead", "10.0.0.1", "a", "2", "3.0", "GiB", "gone"],
    ]


def test_reload_says_what_it_did() -> None:
    """What changed, what follows, and what a reload cannot do."""
    nothing = {"changed": [], "reconnect": False, "restart_required": []}
    much = {"changed": ["a", "b"], "reconnect": True, "restart_required": ["log.format"]}

    assert ["changed: nothing"] == list(render.reload_lines(nothing))
    assert list(render.reload_lines(much)) == [
        "changed: a, b",
        "a new session is being made",
        "needs a restart: log.format",
    ]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"name": "snapshot", "status": CONNECTED}, "snapshot connected (seq 5)"),
        (
            {"name": "castray.state.changed", "from": "connected", "to": "degraded",
             "trigger": "check", "reasons": [FEW, SLOW]},
            "state.changed connected -> degraded (check) nodes_missing: 1 of 3 nodes",
        ),
        (
            {**FAILED, "name": "castray.connection.attempt"},
            "connection.attempt 2d8d-7 failure tcp_refused after 5.1 ms (retry)",
        ),
        ({"name": "castray.events.missed", "missed": 3}, "events.missed missed=3"),
        (
            {"name": "castray.session.output", "stream": "stderr", "text": "a b"},
            "session.output stream=stderr text=a b",
        ),
    ],
)  # fmt: skip
def test_event_is_one_line(event: dict[str, Any], expected: str) -> None:
    """When, what, and what matters of it; one that is not known shows all its fields."""
    assert f"2026-01-02 03:04:05Z {expected}" == render.event_line({"seq": 5, "at": AT, **event})


# --- what strangers say ---


@pytest.mark.usefixtures("colour")
def test_control_characters_never_reach_the_terminal() -> None:
    """A text of Ray, of a host or of a peer moves no cursor and begins no line of its own."""
    evil = "a\x1b]0;x\x07\x9b2J\x00\x7f\r\nb\tc"
    node = {**NODE, "hostname": evil, "death_reason": evil}
    fault = {**FEW, "message": evil, "hint": evil}
    status = {**CONNECTED, "namespace": evil, "reasons": [fault]}
    output = {"seq": 1, "at": AT, "name": "castray.session.output", "text": evil, evil: evil}
    lines = [
        *render.status_lines(clean(status)),
        *render.nodes_lines(clean([node])),
        render.event_line(clean(output)),
    ]

    assert any("a�]0;x��2J��  b c" in line for line in lines)
    assert not any(re.search("[\x00-\x1f\x7f-\x9f]", line) for line in _plain(lines))


def test_every_class_of_error_is_explained() -> None:
    """Meaning, phases, who must act and what to do: none is left out."""
    for kind, known in ERROR_CLASSES.items():
        text = "\n".join(render.class_lines({"type": str(kind), **asdict(known)}))

        assert str(kind) in text
        assert known.meaning in text
        assert known.hint in text
        assert str(known.retry) in text
