# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams, queues, retries and reloads under traffic."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import typing as t
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from .conftest import Frontend, Replica, Request, Response, model, reply, wait_for

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def send_chunk(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


class Stream:
    """A running streamed request whose events are read one by one."""

    def __init__(self, frontend: Frontend) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", frontend.port, timeout=10)
        body = json.dumps(CHAT | {"stream": True})
        self.connection.request("POST", "/v1/chat/completions", body)
        self.response = self.connection.getresponse()
        self.replica = self.response.headers["X-Sdai-Replica"]

    def event(self) -> bytes:
        return self.response.readline()

    def rest(self) -> list[bytes]:
        lines = self.response.read().splitlines(keepends=True)
        self.connection.close()
        return lines


def all_up(frontend: Frontend) -> bool:
    rows = [row for row in frontend.servers().values() if "--" in row["svname"]]
    return bool(rows) and all("INI" not in r["check_status"] and r["status"] == "UP" for r in rows)


def begin(frontend: Frontend, *replicas: Replica, parallel: int = 4, **variables: t.Any) -> None:
    frontend.start([model("tiny", *replicas, parallel=parallel)], **variables)
    wait_for(lambda: all_up(frontend))


def chats(frontend: Frontend, count: int) -> t.Iterator[Future[Response]]:
    """That many requests at once; each future is its answer."""
    with ThreadPoolExecutor(count) as pool:
        yield from [pool.submit(frontend.post, "/api/chat", CHAT) for _ in range(count)]


def test_events_pass_one_by_one(frontend: Frontend) -> None:
    """The replica sends each event only after the client has read the one before: a buffer would block both."""
    replica, was_read = Replica(), threading.Semaphore(0)

    def behave(handler: BaseHTTPRequestHandler, _: Request) -> None:
        begin_stream(handler)
        for number in range(20):
            send_chunk(handler, b"data: %d\n" % number)
            assert was_read.acquire(timeout=5)
        send_chunk(handler, b"data: [DONE]\n")
        handler.wfile.write(b"0\r\n\r\n")

    replica.behave = behave
    begin(frontend, replica)
    stream = Stream(frontend)
    for number in range(20):
        assert stream.event() == b"data: %d\n" % number
        was_read.release()
    assert stream.rest() == [b"data: [DONE]\n"]


def test_client_that_leaves_frees_the_slot(frontend: Frontend) -> None:
    replica, left = Replica(), threading.Event()

    def behave(handler: BaseHTTPRequestHandler, _: Request) -> None:
        handler.connection.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert handler.connection.recv(1) == b""
        left.set()

    replica.behave = behave
    begin(frontend, replica)
    body = json.dumps(CHAT).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", frontend.port)) as connection:
        connection.sendall(head + body)
        wait_for(lambda: replica.running == 1)
    assert left.wait(0.5)


def test_reloads_under_streams_lose_nothing(frontend: Frontend) -> None:
    """Three reloads, the last without the first replica: its streams end in the old process, new requests avoid it."""
    leaving, staying = Replica(), Replica()
    go_on = threading.Event()

    def behave(handler: BaseHTTPRequestHandler, request: Request) -> None:
        if not json.loads(request.body).get("stream"):
            return reply(handler, 200, b"{}")
        begin_stream(handler)
        for number in range(40):
            send_chunk(handler, b"data: %d\n" % number)
            if number == 20:
                assert go_on.wait(20)
        handler.wfile.write(b"0\r\n\r\n")
        return None

    leaving.behave = staying.behave = behave
    begin(frontend, leaving, staying, parallel=8)
    streams = [Stream(frontend) for _ in range(8)]
    assert {stream.replica for stream in streams} == {"tiny--1", "tiny--2"}
    begun = [stream.event() for stream in streams]
    failed, probes, over = [], 0, threading.Event()

    def probe() -> None:
        nonlocal probes
        while not over.is_set():
            got = frontend.post("/api/chat", CHAT)
            probes += 1
            if got.status != 200:
                failed.append(got)

    prober = threading.Thread(target=probe)
    prober.start()
    models = frontend.models
    for context in (2048, 2048):
        models[0] |= {"context": context, "size": models[0]["size"] + 1}
        frontend.reload(models)
    models[0]["servers"] = models[0]["servers"][1:]
    frontend.reload(models)
    before = len(leaving.requests)
    for _ in range(5):
        assert frontend.post("/api/chat", CHAT).headers["x-sdai-replica"] == "tiny--2"
    assert len(leaving.requests) == before
    go_on.set()
    for stream, first in zip(streams, begun, strict=True):
        assert [first, *stream.rest()] == [b"data: %d\n" % n for n in range(40)]
    over.set()
    prober.join()
    assert not failed
    assert probes > 5


def test_one_of_two_replicas_killed_under_24_clients(frontend: Frontend) -> None:
    """Whoever has no byte of an answer yet gets one from the other replica."""
    killed, other, was_killed = Replica(), Replica(), threading.Event()

    def behave(handler: BaseHTTPRequestHandler, _: Request) -> None:
        assert was_killed.wait(10)
        reply(handler, 200, b"{}")

    killed.behave = other.behave = behave
    begin(frontend, killed, other)
    waiting = chats(frontend, 24)
    first = next(waiting)
    wait_for(lambda: killed.running == 4 and other.running == 4)
    killed.kill()
    was_killed.set()
    assert [future.result().status for future in (first, *waiting)] == [200] * 24
    wait_for(lambda: frontend.state("tiny--1") == "DOWN")


def test_requests_beyond_parallel_wait_in_the_frontend(frontend: Frontend) -> None:
    replicas, free = [Replica(), Replica()], threading.Event()

    def behave(handler: BaseHTTPRequestHandler, _: Request) -> None:
        assert free.wait(10)
        reply(handler, 200, b"{}")

    for replica in replicas:
        replica.behave = behave
    begin(frontend, *replicas, parallel=2)
    waiting = chats(frontend, 16)
    first = next(waiting)
    # All sixteen have come in, and no replica has been given more than its two.
    wait_for(lambda: frontend.waiting() == 12)
    assert [len(replica.requests) for replica in replicas] == [2, 2]
    free.set()
    assert [future.result().status for future in (first, *waiting)] == [200] * 16


def test_waiting_too_long_is_503_with_retry_after(frontend: Frontend) -> None:
    replica, free = Replica(), threading.Event()

    def behave(handler: BaseHTTPRequestHandler, _: Request) -> None:
        assert free.wait(10)
        reply(handler, 200, b"{}")

    replica.behave = behave
    begin(frontend, replica, parallel=1, haproxy_timeout_queue="200ms")
    waiting = chats(frontend, 2)
    both = [next(waiting), next(waiting)]
    wait_for(lambda: any(future.done() for future in both))
    refused = next(future.result() for future in both if future.done())
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "no_replica", "5")
    free.set()
    assert sorted(future.result().status for future in both) == [200, 503]
    assert list(waiting) == []


def test_a_slow_body_is_408(frontend: Frontend) -> None:
    begin(frontend, Replica(), haproxy_timeout_body="200ms")
    got = frontend.raw(b'POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"model":')
    assert got.startswith(b"HTTP/1.1 408 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def poisoned(answer: t.Callable[[BaseHTTPRequestHandler], None]) -> t.Callable[[BaseHTTPRequestHandler, Request], None]:
    def behave(handler: BaseHTTPRequestHandler, request: Request) -> None:
        if b"poison" in request.body:
            answer(handler)
        else:
            reply(handler, 200, b"{}")

    return behave


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda handler: reply(handler, 500, b'{"error":"option \\"x\\" must be of type integer"}'), 500),
        (lambda handler: reply(handler, 503, b'{"error":"server busy"}'), 503),
        (hang_up, 502),
    ],
    ids=["500", "503", "hangs up"],
)
def test_a_poisonous_request_takes_no_replica_away(
    frontend: Frontend, answer: t.Callable[[BaseHTTPRequestHandler], None], status: int
) -> None:
    """Anybody can send a request that always fails: it may cost that request, not the service."""
    replicas = [Replica(), Replica()]
    for replica in replicas:
        replica.behave = poisoned(answer)
    begin(frontend, *replicas)
    for _ in range(20):
        got = frontend.post("/api/chat", CHAT | {"x": "poison"})
        assert got.status == status
        assert ("retry-after" in got.headers) == (status == 503)
        assert frontend.post("/api/chat", CHAT).status == 200
    assert all_up(frontend)


def test_a_replica_that_is_overloaded_is_passed_over(frontend: Frontend) -> None:
    busy, free = Replica(), Replica()
    busy.behave = lambda handler, _: reply(handler, 503, b'{"error":"server busy"}')
    begin(frontend, busy, free)
    assert [future.result().status for future in chats(frontend, 8)] == [200] * 8


def test_replica_header_can_be_switched_off(frontend: Frontend) -> None:
    replica = Replica()
    replica.behave = lambda handler, _: reply(handler, 200, b"{}", X_Sdai_Replica="forged")
    begin(frontend, replica)
    assert frontend.post("/api/chat", CHAT).headers["x-sdai-replica"] == "tiny--1"
    frontend.reload(frontend.models, haproxy_replica_header=False)
    assert "x-sdai-replica" not in frontend.post("/api/chat", CHAT).headers


def test_neutralising_can_be_switched_off(frontend: Frontend) -> None:
    replica = Replica()
    begin(frontend, replica, haproxy_neutralise=False)
    assert frontend.post("/api/chat", CHAT | {"keep_alive": 0}).status == 200
    assert json.loads(replica.requests[-1].body)["keep_alive"] == 0
