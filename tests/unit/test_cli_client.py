"""The HTTP client of castrayctl: whole answers, typed refusals, and nothing half taken as whole."""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from castrayd.cli.client import ApiRefusedError, Client, NoDaemonError, quoted

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@pytest.fixture
def path() -> Iterator[str]:
    """A short path right below /tmp, ours alone; pytest's own would be too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="cc-", dir="/tmp"))
    yield str(folder / "s")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _listening(path: str, backlog: int = 8) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(backlog)
        listener.settimeout(5)
        yield listener


def _serve(listener: socket.socket, parts: tuple[bytes, ...], heard: list[bytes]) -> None:
    """Take one request, and answer it part by part."""
    connection, _ = listener.accept()
    with connection, contextlib.suppress(BrokenPipeError):
        connection.settimeout(5)
        heard.append(_request(connection))
        for part in parts:
            connection.sendall(part)
            time.sleep(0.01)


def _request(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        lines = [file.readline()]
        while lines[-1] not in {b"\r\n", b""}:
            lines.append(file.readline())
        length = next(one for one in lines if one.startswith(b"Content-Length:"))
        return b"".join(lines) + file.read(int(length.split()[1]))


@contextmanager
def _running(target: Callable[..., None], *args: object) -> Iterator[None]:
    work = threading.Thread(target=target, args=args)
    work.start()
    try:
        yield
    finally:
        work.join(10)
        assert not work.is_alive()


@contextmanager
def _daemon(path: str, *parts: bytes) -> Iterator[list[bytes]]:
    """Answers one request with these parts; yields what it has heard."""
    heard: list[bytes] = []
    with _listening(path) as listener, _running(_serve, listener, parts, heard):
        yield heard


def _answer(status: bytes, document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _streamed(path: str, *parts: bytes) -> list[dict[str, object]]:
    with _daemon(path, *parts):
        return list(Client(path).stream("/api/events"))


# --- one document ---


def test_whole_answer_is_returned(path: str) -> None:
    """The document, however the writes fall; the request is one that HTTP knows."""
    whole = _answer(b"200 OK", {"state": "connected", "ä": [1, None]})
    with _daemon(path, *(whole[at : at + 20] for at in range(0, len(whole), 20))) as heard:
        assert {"state": "connected", "ä": [1, None]} == Client(path).get("/api/status")

    assert heard[0].startswith(b"GET /api/status HTTP/1.1\r\nHost: castrayd\r\n")
    assert heard[0].endswith(b"Content-Length: 0\r\n\r\n")


def test_body_goes_out_whole_and_an_answer_may_have_no_length(path: str) -> None:
    """What is asked with is JSON; RFC 9112 section 6.3: without length it lasts until the close."""
    with _daemon(path, OK + b"\r\n", b'{"a"', b": 1}") as heard:
        assert {"a": 1} == Client(path).ask("POST", "/api/pause", {"reason": "ä"})

    assert heard[0].startswith(b"POST /api/pause HTTP/1.1\r\n")
    assert {"reason": "ä"} == json.loads(heard[0].partition(b"\r\n\r\n")[2])


def test_refusal_tells_type_hint_and_field(path: str) -> None:
    """A typed error of the API arrives with all that it says."""
    error = {"type": "bad_request", "message": "no", "hint": "do this", "field": "limit"}
    with (
        _daemon(path, _answer(b"400 Bad Request", {"error": error})),
        pytest.raises(ApiRefusedError) as caught,
    ):
        Client(path).get("/api/attempts?limit=0")

    refusal = caught.value
    assert (400, "bad_request", "no") == (refusal.status, refusal.type, refusal.message)
    assert ("do this", "limit") == (refusal.hint, refusal.field)


def test_refused_stream_yields_nothing(path: str) -> None:
    """A stream is refused as a document is; hint and field may be missing."""
    refusal = _answer(b"403 Forbidden", {"error": {"type": "forbidden", "message": "not you"}})
    with pytest.raises(ApiRefusedError) as caught:
        _streamed(path, refusal)

    assert ("forbidden", None, None) == (caught.value.type, caught.value.hint, caught.value.field)


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1",),
        (b"SSH-2.0-OpenSSH_9.2\r\n",),
        (OK + b"Content-Len",),
        (OK + b'Content-Length: 9\r\n\r\n{"a": 1',),
        (b'HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{"error": {"type"',),
    ],
)
def test_half_an_answer_is_no_daemon(path: str, parts: tuple[bytes, ...]) -> None:
    """A hang-up before the answer's end, refusal or not, is neither a document nor a traceback."""
    with _daemon(path, *parts), pytest.raises(NoDaemonError, match="broke off"):
        Client(path).get("/api/status")


# --- nobody there, or too busy ---


def test_missing_socket_is_no_daemon(path: str) -> None:
    """Without a file there is nobody."""
    with pytest.raises(NoDaemonError, match="No such file"):
        Client(path).get("/api/status")


def test_refused_socket_is_no_daemon(path: str) -> None:
    """A socket that somebody has left behind is nobody."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(NoDaemonError, match="refused"):
        Client(path).get("/api/status")


def test_path_that_no_socket_can_have_is_no_daemon() -> None:
    """A path too long for the kernel is told as any other."""
    with pytest.raises(NoDaemonError, match="too long"):
        Client("/tmp/" + "x" * 200).get("/api/status")


@contextmanager
def _full(path: str) -> Iterator[socket.socket]:
    """A listener whose queue takes no more."""
    with _listening(path, 0) as listener, contextlib.ExitStack() as fillers:
        with contextlib.suppress(BlockingIOError):
            for _ in range(9):
                filler = fillers.enter_context(socket.socket(socket.AF_UNIX))
                filler.setblocking(False)
                filler.connect(path)
            pytest.fail("the queue does not fill")
        yield listener


def _drain_and_serve(listener: socket.socket) -> None:
    time.sleep(0.2)
    listener.accept()[0].close()
    _serve(listener, (_answer(b"200 OK", {"a": 1}),), [])


def test_daemon_with_a_full_queue_is_waited_for(path: str) -> None:
    """It is there and busy: the request waits for its turn and is answered."""
    begun = time.monotonic()
    with _full(path) as listener, _running(_drain_and_serve, listener):
        assert {"a": 1} == Client(path).get("/api/status")

    assert time.monotonic() - begun >= 0.2


def test_daemon_whose_queue_stays_full_times_out(path: str) -> None:
    """A wait ends, of a document as of a stream, and is told apart from nobody there."""
    with _full(path):
        with pytest.raises(TimeoutError):
            Client(path).get("/api/status", within_s=0.2)
        with pytest.raises(TimeoutError):
            next(Client(path).stream("/api/events", time.monotonic() + 0.1))


def test_silent_daemon_times_out(path: str) -> None:
    """Accepted and never answered: the wait ends."""
    with _listening(path), pytest.raises(TimeoutError):
        Client(path).get("/api/status", within_s=0.1)


# --- streams ---


def test_lines_are_whole_however_the_chunks_fall(path: str) -> None:
    """Several lines in a chunk, one over three, a chunk's size with an extension."""
    chunks = (_chunk(b'{"n": 1}\n{"n": 2}\n{"n"'), _chunk(b": "), _chunk(b'3}\n{"n": 4}\n'))
    whole = b"".join((*chunks, b'9;x=y\r\n{"n": 5}\n\r\n', LAST))

    assert [{"n": n} for n in (1, 2, 3, 4, 5)] == _streamed(path, CHUNKED + whole)


def test_lines_are_whole_however_the_writes_fall(path: str) -> None:
    """Cut anywhere on the way, chunks are put together again."""
    whole = CHUNKED + _chunk(b'{"n": 1}\n') + _chunk('{"ä": 2}\n'.encode()) + LAST

    assert [] == _streamed(path, CHUNKED + LAST)
    os.unlink(path)
    assert [{"n": 1}, {"ä": 2}] == _streamed(path, *(bytes([byte]) for byte in whole))


@pytest.mark.parametrize(
    "rest",
    [b'f\r\n{"n": ', b'9\r\n{"n": 2}\n', b'7\r\n{"n": 2\r\n' + LAST, b"", b"zz\r\n", b"9"],
    ids=["in a chunk", "after a chunk", "in a line", "no last chunk", "no size", "in a size"],
)
def test_stream_that_breaks_off_is_never_taken_as_whole(path: str, rest: bytes) -> None:
    """What came whole is yielded, and then it is told that more was to come."""
    seen: list[object] = []
    with (
        _daemon(path, CHUNKED + _chunk(b'{"n": 1}\n'), rest),
        pytest.raises(NoDaemonError, match="broke off"),
    ):
        seen.extend(Client(path).stream("/api/events"))

    assert {"n": 1} == seen[0]
    assert seen[1:] in ([], [{"n": 2}])


def test_stream_ends_at_its_deadline(path: str) -> None:
    """A quiet stream is followed until the time given, and no longer."""
    with _listening(path) as listener:
        begun = time.monotonic()
        stream = Client(path).stream("/api/events", begun + 0.2)
        with _running(_say_one_line_and_stay, listener):
            assert {"n": 1} == next(stream)
            with pytest.raises(TimeoutError):
                next(stream)

    assert 0.2 <= time.monotonic() - begun < 2


def _say_one_line_and_stay(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(CHUNKED + _chunk(b'{"n": 1}\n'))
        time.sleep(0.5)


# --- targets ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab-1_2.~,Z", "ab-1_2.~,Z"),
        ("a b/c?d=e&f#g%", "a%20b%2Fc%3Fd%3De%26f%23g%25"),
        ("ä€", "%C3%A4%E2%82%AC"),
        ("\r\nX: y", "%0D%0AX%3A%20y"),
        ("\udcff", "%FF"),
    ],
)
def test_quoted_leaves_only_what_needs_no_quotes(text: str, expected: str) -> None:
    """Nothing can leave its place in a target; bytes that are no text stay what they are."""
    assert expected == quoted(text)
