# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests reach a replica, which one, in what form; and how the others are refused."""

from __future__ import annotations

import json
import typing as t

import pytest

from .conftest import Frontend, Replica, Response, model

KIB = 1024


@pytest.fixture(scope="module")
def replica() -> Replica:
    return Replica()


@pytest.fixture(scope="module")
def frontend(module_frontend: Frontend, replica: Replica) -> Frontend:
    names = ("tiny", "llama3.1:8b", "hf.co/Ns/Repo-GGUF:Q4_K_M", "ns/own")
    models = [model(name, replica) for name in names]
    away = Replica()
    away.ps_status = 500
    return module_frontend.start([*models, model("away", away)], haproxy_residency="warn")


def chat(frontend: Frontend, body: bytes | dict[str, t.Any], **headers: str) -> Response:
    return frontend.post("/v1/chat/completions", body, **headers)


def nested(levels: int) -> bytes:
    """A body nested that many levels deep, its own object being the first."""
    inner = levels - 1
    return b'{"a":' + b"[" * inner + b"]" * inner + b',"model":"tiny"}'


ACCEPTED = {
    "key first": b'{"model":"tiny","messages":[]}',
    "key last": b'{"messages":[{"role":"user","content":"hi"}],"stream":true,"model":"tiny"}',
    "white space": b' \r\n\t{ "model"\n:\t"tiny" , "a" : [ ] , "b" : { } } \n',
    "other cases of the key": b'{"MoDeL":"tiny"}',
    "escaped key": b'{"\\u006dod\\u0065l":"tiny"}',
    "escaped value": b'{"model":"t\\u0069n\\u0079"}',
    "escaped slash": b'{"model":"ns\\/own"}',
    "model in nested objects": b'{"a":{"model":"x"},"model":"tiny","b":[{"model":"y"}]}',
    "braces, quotes and backslashes in strings": rb'{"a":"}]{[\"\\","b":"\\\\","model":"tiny"}',
    "surrogate pair, lone surrogates": b'{"a":"\\ud83d\\ude00\\ud83d\\udc00\\ude00\\ud83dx","model":"tiny"}',
    "raw UTF-8 and invalid UTF-8": b'{"\xc3\xa9":"\xff\xfe","model":"tiny"}',
    "numbers and words": b'{"a":[0,-0,1.5,-1e9,2E+3,0.1e-7,true,false,null],"model":"tiny"}',
    "512 levels": nested(512),
    "240 KiB, key last": b'{"a":"' + b"x" * (240 * KIB - 23) + b'","model":"tiny"}',
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_body_with_one_model_passes_unchanged(frontend: Frontend, replica: Replica, body: bytes) -> None:
    assert chat(frontend, body).status == 200
    assert replica.requests[-1].body == body


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "invalid_json"),
    "white space": (b" \n", 400, "invalid_json"),
    "no JSON": (b"hello", 400, "invalid_json"),
    "an array": (b'["model","tiny"]', 400, "invalid_json"),
    "null": (b"null", 400, "invalid_json"),
    "byte order mark": (b'\xef\xbb\xbf{"model":"tiny"}', 400, "invalid_json"),
    "no model": (b'{"messages":[]}', 400, "model_required"),
    "empty object": (b"{}", 400, "model_required"),
    "empty model": (b'{"model":""}', 400, "model_required"),
    "model null": (b'{"model":null}', 400, "model_not_a_string"),
    "model a number": (b'{"model":5}', 400, "model_not_a_string"),
    "model an object": (b'{"model":{"model":"tiny"}}', 400, "model_not_a_string"),
    "model an array": (b'{"model":["tiny"]}', 400, "model_not_a_string"),
    "model twice": (b'{"model":"tiny","a":1,"model":"ns/own"}', 400, "duplicate_key"),
    "model in two cases": (b'{"model":"tiny","MODEL":"ns/own"}', 400, "duplicate_key"),
    "model twice, one escaped": (b'{"model":"tiny","mode\\u006c":"ns/own"}', 400, "duplicate_key"),
    "two keys equal by the Kelvin sign": ('{"model":"tiny","keep":1,"\u212aeep":2}'.encode(), 400, "duplicate_key"),
    "the same, escaped": (b'{"model":"tiny","keep":1,"\\u212aeep":2}', 400, "duplicate_key"),
    "two keys equal by the long s": ('{"model":"tiny","shift":1,"\u017fhift":2}'.encode(), 400, "duplicate_key"),
    "the same, escaped s": (b'{"model":"tiny","shift":1,"\\u017Fhift":2}', 400, "duplicate_key"),
    "ends early": (b'{"model":"tiny"', 400, "invalid_json"),
    "ends in a string": (b'{"model":"ti', 400, "invalid_json"),
    "ends in an escape": (b'{"model":"ti\\u00', 400, "invalid_json"),
    "ends in a number": (b'{"model":"tiny","a":1', 400, "invalid_json"),
    "data behind the object": (b'{"model":"tiny"}{"model":"ns/own"}', 400, "invalid_json"),
    "trailing comma": (b'{"model":"tiny",}', 400, "invalid_json"),
    "trailing comma in an array": (b'{"a":[1,],"model":"tiny"}', 400, "invalid_json"),
    "no comma": (b'{"a":1 "model":"tiny"}', 400, "invalid_json"),
    "no colon": (b'{"a" 1,"model":"tiny"}', 400, "invalid_json"),
    "wrong bracket": (b'{"a":[1},"model":"tiny"}', 400, "invalid_json"),
    "raw control character": (b'{"a":"\n","model":"tiny"}', 400, "invalid_json"),
    "unknown escape": (b'{"a":"\\x41","model":"tiny"}', 400, "invalid_json"),
    "short \\u": (b'{"a":"\\u12g4","model":"tiny"}', 400, "invalid_json"),
    "leading zero": (b'{"a":01,"model":"tiny"}', 400, "invalid_json"),
    "half a number": (b'{"a":1.,"model":"tiny"}', 400, "invalid_json"),
    "half an exponent": (b'{"a":1e,"model":"tiny"}', 400, "invalid_json"),
    "unknown word": (b'{"a":True,"model":"tiny"}', 400, "invalid_json"),
    "single quotes": (b"{'model':'tiny'}", 400, "invalid_json"),
    "513 levels": (nested(513), 400, "nested_too_deeply"),
    "100,000 levels": (b'{"model":"tiny","a":' + b"[" * 100_000, 400, "nested_too_deeply"),
    "241 KiB": (b'{"model":"tiny","a":"' + b"x" * 241 * KIB + b'"}', 413, "body_too_large"),
    "300 KiB": (b'{"model":"tiny","a":"' + b"x" * 300 * KIB + b'"}', 413, "body_too_large"),
    "unknown model": (b'{"model":"nope"}', 404, "model_not_found"),
    "name with a NUL": (b'{"model":"tiny\\u0000x"}', 404, "model_not_found"),
    "cloud model": (b'{"model":"tiny:cloud"}', 404, "model_not_found"),
    "no replica is up": (b'{"model":"away"}', 503, "no_replica"),
}


@pytest.mark.parametrize(("body", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_other_bodies_are_refused(frontend: Frontend, replica: Replica, body: bytes, status: int, code: str) -> None:
    served = len(replica.requests)
    got = chat(frontend, body)
    assert (got.status, got.code) == (status, code)
    assert got.headers["content-type"] == "application/json"
    assert ("retry-after" in got.headers) == (status == 503)
    assert len(replica.requests) == served


@pytest.mark.parametrize(("size", "status"), [(20, 200), (200, 200), (300, 413), (3000, 413)])
def test_chunked_bodies_obey_the_same_limit(frontend: Frontend, size: int, status: int) -> None:
    """Nothing announces the size of a chunked body: the frontend must notice that it does not fit."""
    body = b'{"a":"' + b"x" * size * KIB + b'","model":"tiny"}'
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    assert frontend.raw(head + sent + b"0\r\n\r\n").split()[1] == str(status).encode()


NAMES = {
    "tiny": "tiny",
    "tiny:latest": "tiny",
    "TINY:Latest": "tiny",
    "library/tiny": "tiny",
    "registry.ollama.ai/library/tiny": "tiny",
    "registry.ollama.ai/ns/own": "ns/own",
    "NS/own:latest": "ns/own",
    "LLAMA3.1:8B": "llama3.1:8b",
    "hf.co/ns/repo-gguf:q4_k_m": "hf.co/ns/repo-gguf:q4_k_m",
    "llama3.1": None,
    "tiny:": None,
    ":tiny": None,
    "tiny:8b": None,
    " tiny": None,
    "tiny ": None,
    "library/ns/own": None,
    "registry.ollama.ai/tiny": None,
    "https://registry.ollama.ai/library/tiny": None,
    "tiny/../tiny": None,
    "ti\u0144y": None,
    "t" * 300: None,
    "'\"\\\n\u212a": None,
}


@pytest.mark.parametrize(("asked", "served"), NAMES.items(), ids=map(repr, NAMES))
def test_spellings_of_a_name(frontend: Frontend, asked: str, served: str | None) -> None:
    """What is served is named by X-Sdai-Replica; an unknown name comes back in the message, safely quoted."""
    got = chat(frontend, {"model": asked})
    if served is None:
        assert (got.status, got.code) == (404, "model_not_found")
        assert got.json["error"]["message"] == f"model '{asked}' not found"
    else:
        expected = {"tiny": "tiny--1", "ns/own": "ns-own--1", "llama3.1:8b": "llama3.1-8b--1"}
        assert got.status == 200
        assert got.headers["x-sdai-replica"] == expected.get(served, "hf.co-ns-repo-gguf-q4-k-m--1")


OFFERED = [
    *(("POST", f"/v1/{path}") for path in ("chat/completions", "completions", "embeddings")),
    *(("POST", f"/api/{path}") for path in ("chat", "generate", "embed", "embeddings", "show")),
    *((m, p) for m in ("GET", "HEAD") for p in ("/", "/healthz", "/v1/models", "/v1/models/tiny")),
    *((m, p) for m in ("GET", "HEAD") for p in ("/api/tags", "/api/version")),
]


@pytest.mark.parametrize(("method", "path"), OFFERED)
def test_offered_paths(frontend: Frontend, method: str, path: str) -> None:
    got = frontend.request(method, path, b'{"model":"tiny"}' if method == "POST" else None)
    assert got.status == 200
    assert (got.body == b"") == (method == "HEAD")


NOT_OFFERED = [
    *(("POST", f"/api/{path}") for path in ("pull", "push", "create", "copy", "me", "signout", "ps", "tags")),
    *(("POST", f"/v1/{path}") for path in ("responses", "messages", "audio/transcriptions", "models")),
    *(("POST", f"/api/experimental/{path}") for path in ("web_search", "web_fetch")),
    *(("POST", path) for path in ("//api/pull", "/api/./pull", "/api/%70ull", "/v1/../api/pull", "/api/chat/")),
    *(("POST", path) for path in ("//api/chat", "/api/./chat", "/api/%63hat", "/v1/../api/chat", "/API/chat")),
    *(("POST", path) for path in ("/api/chat?", "/api/chat?/../pull", "/api/chat;x", "/api/chat%3f")),
    *(("POST", path) for path in ("*", "/api/pull?x=/api/chat", "/api\\chat", "/api/chat%00", "/healthz")),
    *((method, "/api/chat") for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "PROPFIND")),
    *((method, "/v1/models") for method in ("DELETE", "OPTIONS")),
    *(("GET", path) for path in ("/api/ps", "/api/status", "/metrics", "/;csv", "/api/tags?x", "/api/tags/", "/v1")),
    ("DELETE", "/api/delete"),
    ("HEAD", "/api/blobs/sha256:" + "0b" * 32),
]


@pytest.mark.parametrize(("method", "path"), NOT_OFFERED)
def test_everything_else_is_404_before_the_body_is_read(
    frontend: Frontend, replica: Replica, method: str, path: str
) -> None:
    """The body that is announced never comes: only an answer that does not wait for it can be in time."""
    served = len(replica.requests)
    got = frontend.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n".encode(), seconds=2)
    assert got.startswith(b"HTTP/1.1 404 ")
    assert method == "HEAD" or json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_found"
    assert len(replica.requests) == served


@pytest.mark.parametrize(
    "start", ["GET / HTTP/1.1\r\nbad header", "POST /api/chat#x HTTP/1.1", "hello", "PRI * HTTP/2.0"]
)
def test_what_is_not_even_http_is_400(frontend: Frontend, start: str) -> None:
    """Answered by HAProxy's parser, which has its own text for it in every configuration."""
    assert frontend.raw(f"{start}\r\n\r\n".encode()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "identity", "x, zstd"])
def test_encoded_bodies_are_refused_unread(frontend: Frontend, encoding: str) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\ncontent-encoding: {encoding}\r\n\r\n"
    got = frontend.raw(head.encode(), seconds=2)
    assert got.startswith(b"HTTP/1.1 415 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "content_encoding_unsupported"


def test_headers_that_reach_a_replica(frontend: Frontend, replica: Replica) -> None:
    """No key, no origin, no address but the true one, and a Host that Ollama's own check admits."""
    claimed = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6", "Host": "evil.example"}
    sent = claimed | {"Origin": "https://evil.example", "Authorization": "Bearer secret", "Accept": "text/event-stream"}
    assert frontend.request("POST", "/api/chat", b'{"model":"tiny"}', sent).status == 200
    got = {name.lower(): value for name, value in replica.requests[-1].headers.items()}
    assert got["host"] == "localhost"
    assert got["x-forwarded-for"] == "127.0.0.1"
    assert got["accept"] == "text/event-stream"
    assert not {"origin", "authorization", "forwarded", "x-real-ip"} & set(got)


def test_a_uri_with_a_host_is_forwarded_as_a_path(frontend: Frontend, replica: Replica) -> None:
    body = b'{"model":"tiny"}'
    head = b"POST http://evil.example/api/chat HTTP/1.1\r\nHost: evil.example\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert frontend.raw(head + body).startswith(b"HTTP/1.1 200 ")
    assert replica.requests[-1].path == "/api/chat"


def test_log_line_is_json_without_body_and_key(frontend: Frontend) -> None:
    frontend.forget_log()
    asked = 'no"such\nmodel'
    chat(frontend, {"model": asked, "messages": "private words"}, Authorization="Bearer secret")
    line = frontend.log_line("such")
    assert line["model"] == asked
    assert (line["status"], line["method"], line["path"]) == (404, "POST", "/v1/chat/completions")
    assert "private" not in str(line)
    assert "secret" not in str(line)
    frontend.get('/"\\%22')
    assert frontend.log_line("%22")["path"] == '/"\\%22'


NEUTRALISED: dict[str, tuple[str, str]] = {
    "keep_alive": ('{"model":"tiny","keep_alive":0}', '{"model":"tiny","__________":0}'),
    "every runner option": (
        '{"options":{"num_ctx":1,"num_batch":2,"num_gpu":3,"main_gpu":4,"use_mmap":true,"num_thread":5,'
        '"draft_num_predict":6,"temperature":0,"num_keep":7},"model":"tiny"}',
        '{"options":{"_______":1,"_________":2,"_______":3,"________":4,"________":true,"__________":5,'
        '"_________________":6,"temperature":0,"num_keep":7},"model":"tiny"}',
    ),
    "any case and fold at the top": (
        '{"\u212aeep_Alive":0,"\u017fHIFT":false,"OPTIONS":{"num_ctx":1},"model":"tiny"}',
        '{"____________":0,"______":false,"OPTIONS":{"_______":1},"model":"tiny"}',
    ),
    "escapes": (
        '{"\\u006beep_alive":0,"option\\u0073":{"num\\u005fctx":1},"model":"tiny"}',
        '{"_______________":0,"option\\u0073":{"____________":1},"model":"tiny"}',
    ),
    "exact inside options": (
        '{"options":{"NUM_CTX":1,"num_ctx_":2,"x":{"num_ctx":3},"y":[{"num_gpu":4}]},"model":"tiny"}',
        '{"options":{"NUM_CTX":1,"num_ctx_":2,"x":{"num_ctx":3},"y":[{"num_gpu":4}]},"model":"tiny"}',
    ),
    "not elsewhere": (
        '{"tools":[{"parameters":{"num_ctx":1,"keep_alive":2,"options":{"num_gpu":3}}}],"num_ctx":4,"model":"tiny"}',
        '{"tools":[{"parameters":{"num_ctx":1,"keep_alive":2,"options":{"num_gpu":3}}}],"num_ctx":4,"model":"tiny"}',
    ),
    "options of another type": ('{"options":[{"num_ctx":1}],"model":"tiny"}',) * 2,
    "values and other objects behind options": (
        '{"options":{},"format":{"num_ctx":1},"a":"keep_alive","model":"tiny"}',
        '{"options":{},"format":{"num_ctx":1},"a":"keep_alive","model":"tiny"}',
    ),
}


@pytest.mark.parametrize(("sent", "received"), NEUTRALISED.values(), ids=NEUTRALISED.keys())
def test_options_that_act_on_the_engine_are_neutralised(
    frontend: Frontend, replica: Replica, sent: str, received: str
) -> None:
    assert frontend.post("/api/generate", sent.encode()).status == 200
    assert replica.requests[-1].body.decode() == received
    assert frontend.post("/v1/completions", sent.encode()).status == 200
    assert replica.requests[-1].body.decode() == sent


def test_neutralising_a_body_that_fills_the_buffer(frontend: Frontend, replica: Replica) -> None:
    """Keys at both ends; through a chunked body too, whose pieces the frontend holds in one buffer."""
    filling = b'"x":"' + b"y" * 240_000 + b'"'
    body = b'{"keep_alive":0,' + filling + b',"model":"tiny","options":{"num_gpu":0}}'
    expected = body.replace(b"keep_alive", b"__________").replace(b"num_gpu", b"_______")
    assert frontend.post("/api/chat", body).status == 200
    assert replica.requests[-1].body == expected
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[a : a + 999]), body[a : a + 999]) for a in range(0, len(body), 999))
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert frontend.raw(head + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert replica.requests[-1].body == expected
