"""Answers from an endpoint, a file, a tuned model: taken whole, once, and only to the rows that they answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from tasks import answering, asking, preflight, steps, store, training
from tasks.artifacts import Dataset, Predictions, read
from tasks.config import (
    AnswersConfig,
    BaseConfig,
    EndpointConfig,
    EvaluateConfig,
    ExportConfig,
    LocalConfig,
    ModelConfig,
    RegisteredConfig,
)
from tasks.errors import ConfigError, DataError, JobFailed, TransientError
from tasks.trainer.job import DecodeSpec
from tasks.tuned_models import TunedConfig, fetch_tuned

pytestmark = pytest.mark.usefixtures("home", "quiet_logs")

ROWS = [tiny_models.record(number) for number in range(6)]
SPEC = DecodeSpec(max_new_tokens=7, temperature=0.5, seed=3)


@pytest.fixture
def data() -> Dataset:
    with store.scratch(store.local()) as folder:
        for split in ("train", "dev"):
            tiny_models.write_rows(folder / f"{split}.jsonl", ROWS)
        uri, digest = store.commit(folder, store.local(), "datasets", {})
    return Dataset(
        uri=uri, digest=digest, content="c" * 64, format="messages", records={"train": 6, "dev": 6}
    )


Reply = tuple[int, dict[str, str], Any]


class Server:
    """Speaks OpenAI's interface; `replies` come first, each once, then the prompt comes back reversed."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.replies: list[Reply] = []
        self.models: Any = {"data": [{"id": "first"}, {"id": "second"}]}
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.keys.append(self.headers.get("Authorization", ""))
                self._send(outer.status, {}, outer.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                if outer.replies:
                    return self._send(*outer.replies.pop(0))
                text = body["messages"][-1]["content"][::-1]
                choice = {"message": {"content": text}, "finish_reason": "length"}
                self._send(200, {}, {"choices": [choice]})

            def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def ask(server: Server, data: Dataset, spec: DecodeSpec = SPEC, **knobs: Any) -> Predictions:
    subject = EndpointConfig(url=server.url, **knobs)
    with steps.directly():
        return answering.answers_of(subject, data, spec, LocalConfig(), "tuned")


def take(path: Path, data: Dataset, spec: DecodeSpec = SPEC) -> Predictions:
    with steps.directly():
        return answering.answers_of(
            AnswersConfig(path=str(path)), data, spec, LocalConfig(), "tuned"
        )


def test_an_endpoint_answers_every_row_as_it_was_asked(server: Server, data: Dataset) -> None:
    taken = ask(server, data)
    rows = read(taken, "predictions.jsonl")
    assert [row["prediction"] for row in rows] == [
        row["messages"][0]["content"][::-1] for row in ROWS
    ]
    assert {row["finish"] for row in rows} == {"length"}
    assert (taken.rows, taken.dataset, taken.model) == (6, data.content, "first")
    assert server.asked[0] == {
        "model": "first",
        "messages": ROWS[0]["messages"][:1],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 3,
    }


def test_a_busy_server_is_asked_again(server: Server, data: Dataset) -> None:
    wait = {"Retry-After": "0"}
    server.replies = [(503, wait, {}), (429, wait, {})]
    assert ask(server, data, DecodeSpec(rows=1)).rows == 1
    assert len(server.asked) == 3


def test_what_was_answered_before_a_stop_is_not_asked_again(server: Server, data: Dataset) -> None:
    good: Reply = (200, {}, {"choices": [{"message": {"content": "said"}}]})
    busy: Reply = (503, {"Retry-After": "0"}, {})
    server.replies = [good, good, *[busy] * 5]
    with pytest.raises(TransientError, match="what it has answered is kept"):
        ask(server, data)
    (kept,) = (store.home() / "work" / "asked").iterdir()
    kept.write_bytes(kept.read_bytes() + b'{"prediction": "to')  # killed within a write
    server.asked.clear()
    rows = read(ask(server, data), "predictions.jsonl")
    assert [row["prediction"] for row in rows[:3]] == [
        "said",
        "said",
        ROWS[2]["messages"][0]["content"][::-1],
    ]
    assert len(server.asked) == 4
    assert not kept.read_bytes()


def test_two_at_once_take_turns(server: Server, data: Dataset) -> None:
    with ThreadPoolExecutor(2) as both:
        taken = [each.result() for each in [both.submit(ask, server, data) for _ in range(2)]]
    assert taken[0].digest == taken[1].digest
    prompts = [row["messages"][0]["content"] for row in ROWS]
    assert [asked["messages"][0]["content"] for asked in server.asked] == prompts * 2


def test_an_endpoint_is_asked_anew_each_time(server: Server, data: Dataset) -> None:
    ask(server, data)
    ask(server, data)
    assert len(server.asked) == 12


def test_the_key_comes_from_the_environment(
    server: Server, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(asking.KEY, "secret")
    ask(server, data, DecodeSpec(rows=1))
    assert server.keys == ["Bearer secret"]


def change(**attributes: Any) -> Callable[[Server], None]:
    return lambda server: (
        [setattr(server, name, value) for name, value in attributes.items()] and None
    )


@pytest.mark.parametrize(
    ("spoil", "knobs", "error", "told"),
    [
        (change(), {"model": "third"}, ConfigError, r"serves no 'third' \(found first, second\)"),
        (change(status=401), {}, ConfigError, "refuses the key"),
        (change(models=["no"]), {}, ConfigError, "does not speak OpenAI's interface"),
        (change(models={"data": []}), {}, ConfigError, "serves no model"),
        (change(replies=[(400, {}, {"error": "too long"})]), {}, JobFailed, "too long"),
        (change(replies=[(200, {}, {"choices": []})]), {}, JobFailed, "holds no answer"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(
    server: Server,
    data: Dataset,
    spoil: Callable[[Server], None],
    knobs: dict[str, str],
    error: type[Exception],
    told: str,
) -> None:
    spoil(server)
    with pytest.raises(error, match=told):
        ask(server, data, **knobs)


def test_no_server_is_said_at_once(server: Server, data: Dataset) -> None:
    server.close()
    with pytest.raises(ConfigError, match="does not answer"):
        ask(server, data)


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_the_file_of_the_published_scripts_is_taken(data: Dataset, tmp_path: Path) -> None:
    # their labels are cut, and parted by blanks
    rows = [
        {"labels": " ".join(row["messages"][1]["content"][:9]), "predict": f"answer {number}"}
        for number, row in enumerate(ROWS)
    ]
    taken = take(lines(tmp_path / "generated_predictions.txt", rows), data)
    found = read(taken, "predictions.jsonl")
    assert [row["prediction"] for row in found] == [f"answer {number}" for number in range(6)]
    assert [row["reference"] for row in found] == [row["messages"][1]["content"] for row in ROWS]
    assert [row["prompt"] for row in found] == [row["messages"][:1] for row in ROWS]


def test_our_own_file_comes_back_as_it_was(server: Server, data: Dataset, tmp_path: Path) -> None:
    first = ask(server, data)
    copy = tmp_path / "predictions.jsonl"
    copy.write_bytes((store.resolve(first.uri) / "predictions.jsonl").read_bytes())
    assert read(take(copy, data), "predictions.jsonl") == read(first, "predictions.jsonl")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"predict": "a"}] * 5, r"found 5 answers to 6 dev rows"),
        (
            [{"predict": "a"}] * 5 + [{"answer": "a"}],
            r"answers.jsonl:6: no answer \(found answer\)",
        ),
        ([{"predict": "a"}] * 5 + [["a"]], r"answers.jsonl:6: no answer \(found list\)"),
        (
            [{"predict": "a", "labels": "something else"}] * 6,
            r"answers.jsonl:1: answers another row",
        ),
    ],
)
def test_answers_to_other_rows_are_refused(
    rows: list[Any], told: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told):
        take(lines(tmp_path / "answers.jsonl", rows), data)


def test_a_line_that_is_not_json_is_named(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"predict": "a"}\nhello\n', "utf-8")
    with pytest.raises(DataError, match=r"answers.jsonl:2: not a JSON object"):
        take(path, data)


def test_a_folder_that_is_no_tuned_model_is_refused(data: Dataset, tmp_path: Path) -> None:
    tiny_models.glm(tmp_path / "base")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text("{}")
    with steps.directly():
        base = training.fetch_model(BaseConfig(uri=str(tmp_path / "base")))
        (tmp_path / "tuned" / "model.json").write_text("{}")
        with pytest.raises(ConfigError, match="not the record of a tuned model"):
            fetch_tuned(TunedConfig(uri=str(tmp_path / "tuned")), base, LocalConfig())
        record = {"kind": "lora", "family": "tiny", "base_digest": "0" * 64}
        (tmp_path / "tuned" / "model.json").write_text(json.dumps(record))
        with pytest.raises(ConfigError, match="tuned on another base model"):
            fetch_tuned(TunedConfig(uri=str(tmp_path / "tuned")), base, LocalConfig())


def test_a_tuned_model_is_taken_from_where_the_store_keeps_it(tmp_path: Path) -> None:
    tiny_models.glm(tmp_path / "base")
    with steps.directly():
        base = training.fetch_model(BaseConfig(uri=str(tmp_path / "base")))
        with store.scratch(store.local()) as folder:
            record = {"kind": "lora", "family": "tiny", "base_digest": base.digest}
            (folder / "model.json").write_text(json.dumps(record))
            (folder / "adapter_model.safetensors").write_bytes(b"weights")
            uri, _ = store.commit(folder, store.local(), "models", {"step": "train"})
        found = fetch_tuned(TunedConfig(uri=str(store.resolve(uri))), base, LocalConfig())
    assert found.kind == "lora"
    assert (store.resolve(found.uri) / "adapter_model.safetensors").read_bytes() == b"weights"


def model(tmp_path: Path, **knobs: Any) -> ModelConfig:
    base = BaseConfig(
        uri=str(tiny_models.glm(tmp_path / "base")), family=knobs.pop("family", "tiny")
    )
    return ModelConfig(base=base, **knobs)


def empty(tmp_path: Path) -> str:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    return str(tmp_path / "empty")


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (lambda _: AnswersConfig(), r"against\.path: no file of answers \(found none\)"),
        (lambda _: AnswersConfig(path="nowhere"), r"against\.path: no such file"),
        (lambda _: RegisteredConfig(name="nobody"), r"against\.name: nothing is registered as"),
        (lambda _: ModelConfig(base=BaseConfig(uri="no")), r"against\.base\.uri: no such file"),
        (
            lambda at: model(at, tuned="no"),
            r"against\.tuned: no such file or folder \(found 'no'\)",
        ),
        (lambda at: model(at, tuned=__file__), r"against\.tuned: a tuned model is a folder"),
        (lambda at: model(at, tuned=empty(at)), r"against\.tuned: model\.json is missing"),
        (
            lambda at: model(at, family="llama"),
            r"against\.base\.family: llama does not cover this model \(found GlmForCausalLM in its "
            r"config\.json\)\. Choose chatglm or glm4 or tiny\.",
        ),
        (
            lambda _: EndpointConfig(url="http://127.0.0.1:9"),
            r"against\.url: http://127\.0\.0\.1:9 does not answer",
        ),
        (lambda _: EndpointConfig(url="nonsense"), r"against\.url: nonsense does not answer"),
    ],
)
def test_what_cannot_answer_is_refused_before_the_rows_are_read(
    subject: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    known = AnswersConfig(path=__file__)
    with pytest.raises(ConfigError, match="^" + message):
        preflight.check_evaluation(EvaluateConfig(subject=known, against=subject(tmp_path)))


@pytest.mark.parametrize(
    ("form", "to", "message"),
    [
        ("merged", "there", r"to: the folder is not empty \(found '.*there'\)"),
        ("merged", "there/config.json", r"to: a file lies there"),
        ("merged", "", r"to: no folder \(found an empty name\)"),
        ("merged", "new", r"subject\.tuned: a base model has no adapters"),
        ("adapter", "new", r"form: this model has no adapters \(found base\)"),
        ("chatglm", "new", r"form: chatglm is for adapters of ChatGLM \(found base of family tiny"),
    ],
)
def test_an_export_that_cannot_work_is_refused_before_anything_is_merged(
    form: Any, to: str, message: str, tmp_path: Path
) -> None:
    tiny_models.glm(tmp_path / "there")
    place = str(tmp_path / to) if to else ""
    config = ExportConfig(subject=model(tmp_path), form=form, to=place)
    with pytest.raises(ConfigError, match="^" + message):
        preflight.check_export(config)
    assert not (tmp_path / "new").exists()
