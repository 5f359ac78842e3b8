"""The served model over a real socket: what it answers, what it refuses, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from tasks.trainer import generate, model, template
from tasks.trainer.ask import Refusal
from tasks.trainer.errors import ConfigError
from tasks.trainer.job import DecodeSpec, Job
from tasks.trainer.line import Line
from tasks.trainer.model import Loaded
from tasks.trainer.serve import listen
from tasks.trainer.server import Server
from tasks.trainer.service import Service
from tasks.trainer.web import LARGEST_BODY, Connection

PROJECT = Path(__file__).parents[1]
SPEC = DecodeSpec(max_new_tokens=24)
PROMPT = tiny_models.record(1)["messages"][0]["content"]
ENDLESS = 50_000
JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", autouse=True)
def _no_log() -> Iterator[None]:
    """Keep the line per request, written when the reply has gone, out of the suite's output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "log_message", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose window is wide enough for an answer that takes minutes."""
    folder = tiny_models.glm(tmp_path_factory.mktemp("glm"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 2 * ENDLESS
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def loaded(base: Path) -> Loaded:
    return model.load(Job(action="serve", family="tiny", base=str(base)))


@contextlib.contextmanager
def listening(service: Service) -> Iterator[Server]:
    with listen("127.0.0.1", 0, service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            service.close()
            server.shutdown()
            thread.join()
            assert server.rests(5)


@contextlib.contextmanager
def serving(loaded: Loaded, **limits: Any) -> Iterator[Server]:
    service = Service("sample", SPEC, **limits)
    service.open(loaded)
    with listening(service) as server:
        yield server


@pytest.fixture(scope="module")
def server(loaded: Loaded) -> Iterator[Server]:
    with serving(loaded) as running:
        yield running


def connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)


def call(
    server: Server,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] = JSON,
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Send one request and return status, body and headers."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with contextlib.closing(connect(server)) as connection:
        connection.request(method, path, data, headers)
        reply = connection.getresponse()
        text = reply.read()
    return reply.status, json.loads(text) if text else None, reply.headers


def wire(server: Server, data: bytes) -> bytes:
    """Send bytes and return everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def messages(prompt: str = PROMPT) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "sample", "messages": messages(), **fields}


def events(text: bytes) -> list[Any]:
    lines = [part.removeprefix("data: ") for part in text.decode().strip().split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextlib.contextmanager
def generating(server: Server, **fields: Any) -> Iterator[http.client.HTTPResponse]:
    """Hold a stream whose first words have arrived, so that the model surely is at work."""
    body = json.dumps(chat(stream=True, max_tokens=ENDLESS, **fields))
    with contextlib.closing(connect(server)) as connection:
        connection.request("POST", CHAT, body, JSON)
        reply = connection.getresponse()
        assert reply.status == 200
        assert reply.readline().startswith(b"data: ")
        with reply:
            yield reply


def test_the_health_check_passes_only_while_the_model_answers(loaded: Loaded) -> None:
    service = Service("sample", SPEC)
    with listening(service) as server:
        status, body, headers = call(server, "GET", "/ping")
        assert (status, body["error"]["code"]) == (503, "loading")
        assert headers["Retry-After"] == "1"
        assert call(server, "POST", "/invocations", {"prompt": "a"})[0] == 503
        service.open(loaded)
        assert call(server, "GET", "/ping")[0] == 200
        service.close()
        assert call(server, "GET", "/ping")[0] == 503


@pytest.mark.parametrize(
    "body", [{"messages": messages()}, {"prompt": PROMPT}, {"inputs": PROMPT}], ids=str
)
def test_a_served_answer_is_the_offline_answer(
    server: Server, loaded: Loaded, body: dict[str, Any]
) -> None:
    (offline,) = generate.answer(loaded, [messages()], SPEC, loaded.max_prompt_tokens)
    status, reply, _ = call(server, "POST", "/invocations", body)
    assert status == 200
    assert reply["answer"] == offline.text
    assert reply["finish"] == offline.finish
    assert reply["usage"] == {
        "prompt_tokens": offline.prompt_tokens,
        "completion_tokens": offline.answer_tokens,
        "total_tokens": offline.prompt_tokens + offline.answer_tokens,
    }


def test_every_dialect_goes_through_the_template_of_the_model(loaded: Loaded) -> None:
    asked = "### Question:\n{prompt}\n\n### Answer:\n"
    by_hand = messages(asked.replace("{prompt}", PROMPT))
    (offline,) = generate.answer(loaded, [by_hand], SPEC, loaded.max_prompt_tokens)
    with serving(replace(loaded, family=template.templated(loaded.family, asked))) as server:
        for body in ({"messages": messages()}, {"prompt": PROMPT}, {"inputs": PROMPT}):
            _, reply, _ = call(server, "POST", "/invocations", body)
            assert (reply["answer"], reply["finish"]) == (offline.text, offline.finish)
            assert reply["usage"]["prompt_tokens"] == offline.prompt_tokens
        _, whole, _ = call(server, "POST", CHAT, chat())
        with contextlib.closing(connect(server)) as connection:
            connection.request("POST", CHAT, json.dumps(chat(stream=True)), JSON)
            *told, _, _ = events(connection.getresponse().read())
    assert whole["choices"][0]["message"]["content"] == offline.text
    assert "".join(e["choices"][0]["delta"]["content"] for e in told) == offline.text
    (plain,) = generate.answer(loaded, [messages()], SPEC, loaded.max_prompt_tokens)
    assert plain.prompt_tokens < offline.prompt_tokens


def test_the_whole_conversation_is_the_prompt(server: Server, loaded: Loaded) -> None:
    talk = [
        {"role": "system", "content": "简短回答"},
        *messages("上衣"),
        {"role": "assistant", "content": "红色"},
        *messages("裙子"),
    ]
    (offline,) = generate.answer(loaded, [talk], SPEC, loaded.max_prompt_tokens)
    _, plain, _ = call(server, "POST", "/invocations", {"messages": talk})
    _, chatty, _ = call(server, "POST", CHAT, chat(messages=talk))
    assert plain["answer"] == chatty["choices"][0]["message"]["content"] == offline.text
    assert plain["usage"] == chatty["usage"]
    assert plain["usage"]["prompt_tokens"] == offline.prompt_tokens


def test_a_list_is_answered_by_a_list_in_its_order(server: Server) -> None:
    prompts = [PROMPT, "裙", PROMPT + PROMPT, "上衣"]
    _, together, _ = call(server, "POST", "/invocations", {"inputs": prompts})
    alone = [call(server, "POST", "/invocations", {"inputs": one})[1] for one in prompts]
    counts = [reply["usage"]["prompt_tokens"] for reply in together]
    assert counts == [reply["usage"]["prompt_tokens"] for reply in alone]
    assert together[0]["answer"] == alone[0]["answer"]
    assert isinstance(call(server, "POST", "/invocations", {"inputs": [PROMPT]})[1], list)


def test_what_a_request_says_replaces_the_defaults(server: Server) -> None:
    def answer(**parameters: Any) -> Any:
        body = {"prompt": PROMPT, "parameters": parameters}
        return call(server, "POST", "/invocations", body)[1]

    assert answer(max_new_tokens=3)["usage"]["completion_tokens"] == 3
    drawn = answer(temperature=1.5, seed=1, max_new_tokens=24)
    assert drawn == answer(temperature=1.5, seed=1)
    assert drawn["answer"] != answer(temperature=1.5, seed=2)["answer"]
    assert answer(temperature=1e-300) == answer(temperature=None) == answer()
    assert answer(temperature=1.5, top_p=1e-9)["answer"] == answer()["answer"]


def test_a_chat_completion_has_the_shape_that_clients_read(server: Server) -> None:
    status, reply, _ = call(server, "POST", CHAT, chat(max_completion_tokens=5, n=1, user="me"))
    assert status == 200
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "sample"
    (choice,) = reply["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["message"]["role"] == "assistant"
    assert reply["usage"]["completion_tokens"] == 5


def test_a_reply_of_the_assistant_can_be_sent_back_as_it_came(server: Server) -> None:
    _, reply, _ = call(server, "POST", CHAT, chat())
    talk = [*messages(), reply["choices"][0]["message"], *messages("再来一次")]
    parts = [{"role": "developer", "content": [{"type": "text", "text": "简短"}]}, *talk]
    assert call(server, "POST", CHAT, chat(messages=parts))[0] == 200


@pytest.mark.parametrize("prompt", [PROMPT, "裙", "颜色#红色", "a b  c", "😀"])
def test_the_pieces_of_a_stream_add_up_to_the_answer(server: Server, prompt: str) -> None:
    asked = {"messages": messages(prompt), "max_tokens": 60}
    _, whole, _ = call(server, "POST", CHAT, chat(**asked))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with contextlib.closing(connect(server)) as connection:
        connection.request("POST", CHAT, json.dumps(chat(**asked, **options)), JSON)
        reply = connection.getresponse()
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        *told, end, counts, done = events(reply.read())
    pieces = [event["choices"][0]["delta"]["content"] for event in told]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 10
    assert told[0]["choices"][0]["delta"]["role"] == "assistant"
    assert end["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (counts["choices"], counts["usage"]) == ([], whole["usage"])
    assert done == "[DONE]"


def test_the_first_piece_arrives_long_before_the_last(server: Server) -> None:
    with generating(server) as reply:
        told = [reply.readline() for _ in range(20)]
    assert sum(b'"content"' in line for line in told) == 10


def test_an_old_client_gets_its_stream_unframed(server: Server) -> None:
    body = json.dumps(chat(stream=True, max_tokens=4)).encode()
    head = b"POST %s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reply = wire(server, head % (CHAT.encode(), len(body)) + body)
    headers, _, text = reply.partition(b"\r\n\r\n")
    assert b"chunked" not in headers
    assert events(text)[-1] == "[DONE]"


def test_the_model_is_listed(server: Server) -> None:
    _, listed, _ = call(server, "GET", "/v1/models")
    assert [entry["id"] for entry in listed["data"]] == ["sample"]
    assert call(server, "GET", "/v1/models/sample")[1] == listed["data"][0]
    status, body, _ = call(server, "GET", "/v1/models/other")
    assert (status, body["error"]["code"]) == (404, "model_not_found")


DEEP = b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"prompt": NaN}', "is not JSON"),
        (b'{"prompt": 1' + b"0" * 5000 + b"}", "is not JSON"),
        (DEEP, "nested too deeply"),
        ([], "must be a JSON object"),
        ({}, "must have one of messages, prompt, inputs (found none)"),
        ({"prompt": "a", "inputs": "b"}, "found prompt, inputs"),
        ({"prompt": "a", "temprature": 1}, "temprature: is not known here"),
        ({"prompt": 3}, "prompt: must be text (found 3)"),
        ({"prompt": None}, "prompt: must be text (found null)"),
        (b'{"prompt": "\\ud83d"}', "half of a surrogate pair"),
        ({"inputs": []}, "inputs: must be 1 to 64 texts (found 0)"),
        ({"inputs": ["a"] * 65}, "found 65"),
        ({"inputs": ["a", 1]}, "inputs[1]: must be text (found 1)"),
        ({"messages": "hello"}, "messages: must be a list of messages"),
        ({"messages": []}, "messages: must be a list of messages"),
        ({"messages": [3]}, "messages[0]: must be an object"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role: must be one of"),
        ({"messages": [{"role": [], "content": "a"}]}, "messages[0].role: must be one of"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: must be text (found null)"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x: is not known"),
        ({"messages": [{"role": "system", "content": "a"}]}, "must end with a message of the user"),
        ({"prompt": "a", "parameters": []}, "parameters: must be an object (found [])"),
        ({"prompt": "a", "parameters": {"top_k": 5}}, "parameters.top_k: is not known here"),
        ({"prompt": "a", "parameters": {"temperature": "1"}}, "temperature: must be a number"),
        ({"prompt": "a", "parameters": {"temperature": -1}}, "temperature: must be a number"),
        ({"prompt": "a", "parameters": {"temperature": True}}, "temperature: must be a number"),
        (b'{"prompt": "a", "parameters": {"temperature": 1e999}}', "temperature: must be"),
        ({"prompt": "a", "parameters": {"top_p": 0}}, "top_p: must be a number"),
        ({"prompt": "a", "parameters": {"top_p": 1.1}}, "top_p: must be a number"),
        ({"prompt": "a", "parameters": {"max_new_tokens": 0}}, "must be a whole number"),
        ({"prompt": "a", "parameters": {"max_new_tokens": 2.5}}, "must be a whole number"),
        ({"prompt": "a", "parameters": {"max_new_tokens": 10**9}}, "must be a whole number"),
        ({"prompt": "a", "parameters": {"seed": -1}}, "seed: must be a whole number"),
        ({"prompt": "a", "parameters": {"seed": 2**63}}, "seed: must be a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_a_bad_invocation_is_refused_by_name(server: Server, body: Any, says: str) -> None:
    status, reply, _ = call(server, "POST", "/invocations", body)
    assert status == 400
    assert says in reply["error"]["message"]
    assert reply["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"messages": None}, 400, "messages"),
        ({"n": 2}, 400, "n"),
        ({"stop": ["\n"]}, 400, "stop"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"stream": True, "stream_options": {"a": 1}}, 400, "stream_options.a"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, 400, "max_completion_tokens"),
        ({"max_tokens": "3"}, 400, "max_tokens"),
        ({"temperature": 2.1}, 400, "temperature"),
        ({"top_k": 3}, 400, "top_k"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None),
    ],
    ids=str,
)
def test_a_bad_chat_is_refused_by_name(
    server: Server, fields: dict[str, Any], status: int, param: str | None
) -> None:
    found, reply, _ = call(server, "POST", CHAT, chat(**fields))
    assert found == status
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert reply["error"]["param"] == (param or "messages[0].content[0]")


def test_neutral_values_of_other_parameters_are_fine(server: Server) -> None:
    neutral = {
        "n": 1,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logprobs": False,
        "stop": None,
        "tools": [],
        "response_format": {"type": "text"},
        "stream": False,
        "temperature": None,
    }
    assert call(server, "POST", CHAT, chat(max_tokens=1, **neutral))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("GET", "/v1", 404),
        ("GET", "/invocations", 405),
        ("PUT", "/invocations", 405),
        ("DELETE", "/v1/models/sample", 405),
        ("OPTIONS", CHAT, 405),
        ("POST", "/ping", 405),
        ("POST", "/", 405),
        ("BREW", "/", 501),
    ],
)
def test_unknown_paths_and_methods_are_refused_as_json(
    server: Server, method: str, path: str, status: int
) -> None:
    found, reply, headers = call(server, method, path, {})
    assert (found, reply["error"]["type"]) == (status, "invalid_request_error")
    assert (status == 405) == ("Allow" in headers)
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=gbk"],
)
@pytest.mark.parametrize("path", ["/invocations", CHAT])
def test_a_body_of_another_type_is_refused(server: Server, path: str, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    status, reply, _ = call(server, "POST", path, {"prompt": "a"}, headers)
    assert status == 415
    assert "application/json" in reply["error"]["message"]


def test_utf_8_may_be_named(server: Server) -> None:
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    assert call(server, "POST", "/invocations", {"prompt": "裙"}, headers)[0] == 200


def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_read(server: Server) -> None:
    for size in (LARGEST_BODY + 1, 8 * LARGEST_BODY):  # the second fills every buffer on the way
        status, reply, _ = call(server, "POST", "/invocations", b" " * size)
        assert status == 413
        assert f"found {size} bytes, limit {LARGEST_BODY}" in reply["error"]["message"]
    body = b'{"prompt": "a"}'
    padded = body + b" " * (LARGEST_BODY - len(body))
    assert call(server, "POST", "/invocations", padded)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n", 411),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: +3\r\n", 400),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_unclear_length_closes_the_connection(
    server: Server, headers: bytes, status: int
) -> None:
    after = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reply = wire(server, head + headers + b"\r\n" + after)
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert reply.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in reply


def test_who_asks_before_sending_is_answered_before_sending(server: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    expect = b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    small = b'{"prompt": "a"}'
    reply = wire(server, head + expect % len(small) + small)
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert wire(server, head + expect % 2**30).startswith(b"HTTP/1.1 413 ")


def test_what_is_not_http_is_refused_as_json(server: Server) -> None:
    assert b'"error"' in wire(server, b"GET / HTTP/x\r\n\r\n")


def test_a_connection_serves_many_requests_also_after_refusals(server: Server) -> None:
    with contextlib.closing(connect(server)) as connection:
        sock = None
        for path, status in (("/nothing", 404), ("/ping", 405), ("/invocations", 200)) * 3:
            connection.request("POST", path, json.dumps({"prompt": "a"}), JSON)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == status
            sock = sock or connection.sock
            assert connection.sock is sock


def test_asking_for_the_head_brings_no_body(server: Server) -> None:
    with contextlib.closing(connect(server)) as connection:
        for _ in range(2):
            connection.request("HEAD", "/")
            reply = connection.getresponse()
            assert (reply.status, reply.read()) == (200, b"")
            assert int(reply.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("127.0.0.1.evil.example", 403),
        ("notlocalhost.example", 403),
        ("[", 403),
        ("", 403),
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:9", 200),
        ("192.168.1.5", 200),
    ],
)
def test_a_name_pointed_at_this_machine_reaches_nothing(
    server: Server, host: str, status: int
) -> None:
    assert call(server, "GET", "/ping", None, {"Host": host})[0] == status


def test_an_error_of_ours_is_a_500_without_its_details(
    loaded: Loaded, capfd: pytest.CaptureFixture[str]
) -> None:
    service = Service("sample", SPEC)
    service.open(loaded)

    class Broken:
        def prompt(self, *_: object) -> list[int]:
            raise RuntimeError("a secret")

    loaded = replace(loaded, family=Broken())  # type: ignore[arg-type]
    service._loaded = loaded
    with listening(service) as server:
        for path, body in (("/invocations", {"prompt": "a"}), (CHAT, chat(stream=True))):
            status, reply, headers = call(server, "POST", path, body)
            assert (status, reply["error"]["type"]) == (500, "server_error")
            assert "secret" not in json.dumps(reply)
            assert headers["Connection"] == "close"
    assert "a secret" in capfd.readouterr().err


def test_who_finds_the_line_full_is_sent_away_at_once(loaded: Loaded) -> None:
    with serving(loaded, waiting=0) as server, generating(server):
        for path, body in (("/invocations", {"prompt": "a"}), (CHAT, chat(stream=True))):
            status, reply, headers = call(server, "POST", path, body)
            assert (status, reply["error"]["code"]) == (429, "queue_full")
            assert 1 <= int(headers["Retry-After"]) <= 60
        assert call(server, "GET", "/ping")[0] == 200


def test_who_waits_too_long_for_a_turn_is_told_when_to_come_back(loaded: Loaded) -> None:
    with serving(loaded, seconds=20) as server, generating(server):
        server.service._seconds = 0.05
        status, reply, headers = call(server, "POST", "/invocations", {"prompt": "a"})
    assert (status, reply["error"]["code"]) == (503, "overloaded")
    assert int(headers["Retry-After"]) >= 1


def test_an_answer_that_takes_too_long_is_stopped(loaded: Loaded) -> None:
    with serving(loaded, seconds=0.3) as server:
        body = {"prompt": "a", "parameters": {"max_new_tokens": ENDLESS}}
        status, reply, _ = call(server, "POST", "/invocations", body)
        assert (status, reply["error"]["code"]) == (504, "timeout")
        with generating(server) as stream:
            *_, last = events(stream.read())
        assert last["error"]["code"] == "timeout"


def test_a_client_that_leaves_frees_the_model(loaded: Loaded) -> None:
    with serving(loaded) as server:
        with generating(server):
            pass
        assert call(server, "POST", "/invocations", {"prompt": "a"})[0] == 200


def test_stopping_ends_a_generation_and_sends_the_line_away(loaded: Loaded) -> None:
    with serving(loaded) as server, generating(server) as stream:
        late: list[int] = []
        waits = threading.Thread(
            target=lambda: late.append(call(server, "POST", "/invocations", {"prompt": "a"})[0])
        )
        waits.start()
        server.service.close()
        *_, last = events(stream.read())
        waits.join()
    assert last["error"]["code"] == "stopping"
    assert late == [503]


def test_turns_come_in_the_order_of_arrival() -> None:
    line, until = Line(8), time.monotonic() + 20
    served: list[int] = []

    def want(number: int) -> None:
        with line.turn(until):
            served.append(number)

    threads = [threading.Thread(target=want, args=(number,)) for number in range(6)]
    with line.turn(until):
        for number, thread in enumerate(threads, start=2):
            thread.start()
            while len(line._tickets) < number and time.monotonic() < until:
                pass
        assert served == []
    for thread in threads:
        thread.join()
    assert served == list(range(6))


def test_a_turn_that_fails_is_given_on() -> None:
    line, until = Line(0), time.monotonic() + 20
    with pytest.raises(ZeroDivisionError), line.turn(until):
        raise ZeroDivisionError
    with line.turn(until), pytest.raises(Refusal), line.turn(until):
        pass


def test_a_taken_port_is_refused_before_the_model_is_loaded(server: Server) -> None:
    with pytest.raises(ConfigError, match=rf"serving\.port: .*{server.server_port}.*port 0"):
        listen("127.0.0.1", server.server_port, Service("other", SPEC))
    with pytest.raises(ConfigError, match="nowhere"):
        listen("nowhere.invalid", 0, Service("other", SPEC))


def start(folder: Path, base: Path, **fields: Any) -> subprocess.Popen[str]:
    job = Job(action="serve", family="tiny", base=str(base), decode=SPEC, name="sample", **fields)
    job.write(folder / "job.json")
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.trainer", "serve", "--job", str(folder / "job.json")],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_signal_ends_the_process_cleanly_in_the_middle_of_an_answer(
    tmp_path: Path, base: Path
) -> None:
    with start(tmp_path, base) as process:
        assert process.stdout
        ready = next(line for line in process.stdout if line.startswith("[ready]"))
        port = int(ready.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", CHAT, json.dumps(chat(stream=True, max_tokens=ENDLESS)), JSON)
        reply = connection.getresponse()
        assert reply.readline().startswith(b"data: ")
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        *_, last = events(reply.read())
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - began < 2
        connection.close()
    assert last["error"]["code"] == "stopping"


def test_the_page_needs_nothing_from_elsewhere_and_runs_only_its_own_script(
    loaded: Loaded,
) -> None:
    service = Service("<img onerror=alert(1)>\"'&{{nonce}}", SPEC)
    service.open(loaded)
    with listening(service) as server, contextlib.closing(connect(server)) as connection:
        connection.request("GET", "/")
        reply = connection.getresponse()
        page = reply.read().decode()
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "&lt;img onerror=alert(1)&gt;&quot;&#x27;&amp;{{nonce}}" in page
    assert "<img" not in page
    linked = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"'\s>]*)""", page)
    assert all(address.startswith("data:") for address in linked)
    assert not re.search(r"https?://|@import|url\(", page)
    policy = reply.headers["Content-Security-Policy"]
    nonces = set(re.findall(r'nonce="([^"]+)"', page))
    assert {f"'nonce-{nonce}'" for nonce in nonces} == set(re.findall(r"'nonce-[^']+'", policy))
    assert "default-src 'none'" in policy
    assert page.count("<script") == page.count("<style") == len(nonces) == 1
