"""Endpoints by name. A stand-in program takes the trainer's place, but for the last test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from tasks import endpoints, launching, processes
from tasks.endpoint_records import Records
from tasks.errors import ConfigError, JobFailed, TransientError
from tasks.trainer import generate, model
from tasks.trainer.job import DecodeSpec, Job

PROJECT = Path(__file__).parents[1]
JOB = Job(action="serve", family="tiny", base="base", decode=DecodeSpec())
# What it does is said by the family in its job.
STAND_IN = """
import http.server, json, os, signal, sys
job = json.load(open(sys.argv[sys.argv.index("--job") + 1]))
if job["family"] == "refused":
    print("[error] model.json: tuned on another base.")
    sys.exit(64)
if job["family"] == "dies":
    print("first line\\nout of memory")
    sys.exit(9)
if job["family"] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if job["work"]:
    pipe = os.open(job["work"], os.O_WRONLY)  # open until this process ends, and only so long
if job["family"] == "mute":
    signal.pause()
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer((job["host"], job["port"]), Answers)
print(f"[ready] url=http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that runs the stand-in, whatever it is asked to run."""
    (tmp_path / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{tmp_path}/stand_in.py" "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A register; whatever still runs from it after the test fails the test."""
    folder = tmp_path / "endpoints"
    yield folder
    for name in ("sample", "other"):
        endpoints.stop(folder, name)
    left = alive(folder)
    for pid in left:
        processes.stop(pid, processes.born(pid) or "", 0)
    assert left == []


def alive(folder: Path) -> list[int]:
    """Return the processes that were started for a register, wherever their files are now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(f"--job\0{folder}/") in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if processes.born(pid)]


def start(
    directory: Path, python: str, model: str = "m1", name: str = "sample", **job: Any
) -> endpoints.Running:
    return endpoints.start(directory, name, replace(JOB, **job), python, 20, model)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def files(directory: Path) -> list[str]:
    return sorted(re.sub(r"\.\w{8}\.", ".*.", path.name) for path in directory.iterdir())


def test_what_was_started_is_found_until_it_is_stopped(directory: Path, python: str) -> None:
    started = start(directory, python)
    assert (started.name, started.model) == ("sample", "m1")
    assert endpoints.find(directory, "sample") == started
    assert endpoints.running(directory) == [started]
    assert endpoints.find(directory, "other") is None
    assert endpoints.stop(directory, "sample") is True
    assert processes.born(started.pid) is None
    assert endpoints.find(directory, "sample") is None
    assert endpoints.running(directory) == []
    assert endpoints.stop(directory, "sample") is False
    assert files(directory) == ["sample.lock"]


def test_a_register_that_was_never_used_is_empty(tmp_path: Path) -> None:
    assert endpoints.running(tmp_path / "none") == []
    assert endpoints.find(tmp_path / "none", "sample") is None


def test_a_process_outlives_whoever_started_it(directory: Path, python: str) -> None:
    program = (
        "import sys; from pathlib import Path; from tasks import endpoints\n"
        "from tasks.trainer.job import Job\n"
        "job = Job(action='serve', family='tiny', base='base')\n"
        "endpoints.start(Path(sys.argv[1]), 'sample', job, sys.argv[2], 20, 'm1')"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(directory), python]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = endpoints.find(directory, "sample")
    assert found
    assert os.getsid(found.pid) == found.pid
    assert Path(f"/proc/{found.pid}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{found.pid}/cwd").readlink() == PROJECT


def test_the_same_model_on_the_same_terms_is_kept(directory: Path, python: str) -> None:
    first = start(directory, python, base="here")
    assert start(directory, python, base="moved/elsewhere") == first
    assert files(directory) == ["sample.*.job", "sample.*.log", "sample.json", "sample.lock"]


@pytest.mark.parametrize(
    "other",
    [{"model": "m2"}, {"decode": DecodeSpec(max_new_tokens=5)}, {"host": "0.0.0.0"}],
    ids=str,
)
def test_anything_else_replaces_the_former_process(
    directory: Path, python: str, other: dict[str, Any]
) -> None:
    first = start(directory, python)
    second = start(directory, python, **other)
    assert alive(directory) == [second.pid]
    assert second.pid != first.pid
    assert endpoints.find(directory, "sample") == second
    assert files(directory) == ["sample.*.job", "sample.*.log", "sample.json", "sample.lock"]


def test_names_do_not_disturb_each_other(directory: Path, python: str) -> None:
    both = [start(directory, python, name="other"), start(directory, python)]
    assert endpoints.running(directory) == both
    endpoints.stop(directory, "other")
    assert endpoints.running(directory) == both[1:]


def test_a_process_that_no_longer_lives_is_replaced(directory: Path, python: str) -> None:
    first = start(directory, python)
    processes.stop(first.pid, processes.born(first.pid) or "", 5)
    assert endpoints.find(directory, "sample") is None
    assert start(directory, python).pid != first.pid


@pytest.mark.parametrize(
    ("does", "error", "says"),
    [
        ("dies", JobFailed, r"(?s)code 9\).*first line\n *out of memory"),
        ("refused", ConfigError, r"^model\.json: tuned on another base\.$"),
    ],
)
def test_a_new_process_that_fails_is_explained_and_leaves_the_former_in_place(
    directory: Path, python: str, does: str, error: type[Exception], says: str
) -> None:
    first = start(directory, python)
    with pytest.raises(error, match=says):
        start(directory, python, model="m2", family=does)
    assert endpoints.running(directory) == [first]
    assert alive(directory) == [first.pid]


def test_a_process_that_never_answers_is_stopped(directory: Path, python: str) -> None:
    with pytest.raises(JobFailed, match=r"waited 0\.3 s.*serving\.startup_seconds"):
        endpoints.start(directory, "sample", replace(JOB, family="mute"), python, 0.3, "m1")
    assert alive(directory) == []
    assert endpoints.find(directory, "sample") is None


def test_an_interpreter_that_is_not_there_is_named(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"python: /no/python cannot be run \(No such file"):
        start(directory, "/no/python")
    assert files(directory) == ["sample.*.log", "sample.lock"]


def test_a_process_that_is_not_accepted_never_gets_the_name(directory: Path, python: str) -> None:
    first = start(directory, python)
    seen = []

    def refuse(url: str) -> None:
        seen.append(url)
        raise JobFailed("its answers are others")

    with pytest.raises(JobFailed, match="its answers are others"):
        endpoints.start(directory, "sample", JOB, python, 20, "m2", refuse)
    assert seen != [first.url]
    assert endpoints.running(directory) == [first]
    assert alive(directory) == [first.pid]


def test_a_port_of_somebody_else_is_refused_before_anything_starts(
    directory: Path, python: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            start(directory, python, port=port)
    assert str(refused.value) == (
        f"serving.port: {port} is taken on 127.0.0.1 (Address already in use). Choose another or 0."
    )
    assert files(directory) == ["sample.lock"]


def test_a_port_of_another_endpoint_is_refused(directory: Path, python: str) -> None:
    other = start(directory, python, name="other", port=free_port())
    with pytest.raises(ConfigError, match=r"serving\.port: "):
        start(directory, python, port=int(other.url.rpartition(":")[2]))
    assert endpoints.running(directory) == [other]


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_a_host_of_elsewhere_is_refused(directory: Path, python: str, host: str) -> None:
    with pytest.raises(ConfigError, match=rf"serving\.host: cannot listen on '{host}'"):
        start(directory, python, host=host)


def test_an_endpoint_gives_its_fixed_port_to_its_successor(directory: Path, python: str) -> None:
    port = free_port()
    first = start(directory, python, port=port)
    second = start(directory, python, model="m2", port=port)
    assert second.url == first.url == f"http://127.0.0.1:{port}"
    assert alive(directory) == [second.pid]
    assert endpoints.find(directory, "sample") == second


def test_an_endpoint_comes_back_to_its_fixed_port_when_the_successor_fails(
    directory: Path, python: str
) -> None:
    port = free_port()
    first = start(directory, python, port=port)
    with pytest.raises(JobFailed, match=rf"(?s)code 9.*answers again at {first.url}\."):
        start(directory, python, model="m2", port=port, family="dies")
    (back,) = endpoints.running(directory)
    assert (back.url, back.model) == (first.url, "m1")
    assert alive(directory) == [back.pid]
    assert start(directory, python, port=port) == back


def test_a_process_that_ignores_the_polite_signal_is_killed(
    directory: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "STOP_SECONDS", 0.1)
    stubborn = start(directory, python, family="stubborn")
    assert endpoints.stop(directory, "sample") is True
    assert processes.born(stubborn.pid) is None


def test_a_process_with_the_number_of_ours_is_left_alone(directory: Path, python: str) -> None:
    ours = start(directory, python)
    place = directory / "sample.json"
    record = json.loads(place.read_text(encoding="utf-8"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        place.write_text(json.dumps({**record, "pid": stranger.pid}), encoding="utf-8")
        assert endpoints.find(directory, "sample") is None
        assert endpoints.stop(directory, "sample") is False
        assert stranger.poll() is None
        stranger.communicate()
    assert stranger.returncode == 0
    assert processes.born(ours.pid) is None, "ours was found by its job file"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "sample"}'])
def test_a_damaged_record_leaves_no_orphan(directory: Path, python: str, damage: str) -> None:
    start(directory, python)
    (directory / "sample.json").write_text(damage, encoding="utf-8")
    assert endpoints.running(directory) == []
    again = start(directory, python)
    assert alive(directory) == [again.pid]


@pytest.mark.parametrize("name", ["", "../sample", "a/b", "Sample", "-a", "a.b", "a" * 64])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, python: str, name: str) -> None:
    for use in (
        lambda: start(tmp_path / "register", python, name=name),
        lambda: endpoints.find(tmp_path / "register", name),
        lambda: endpoints.stop(tmp_path / "register", name),
    ):
        with pytest.raises(ConfigError, match="cannot name an endpoint"):
            use()
    assert not (tmp_path / "register").exists()


DEPLOY = """
import sys
from pathlib import Path
from tasks import endpoints
from tasks.trainer.job import Job
directory, python, model, family, pipe = sys.argv[1:]
job = Job(action="serve", family=family, base="base", work=pipe)
print(endpoints.start(Path(directory), "sample", job, python, 30, model).pid)
"""


def deployment(
    directory: Path, python: str, model: str, family: str = "tiny", pipe: str = ""
) -> subprocess.Popen[str]:
    arguments = [str(directory), python, model, family, pipe]
    return subprocess.Popen(
        [sys.executable, "-c", DEPLOY, *arguments], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )


def test_deployments_at_once_end_with_one_process(directory: Path, python: str) -> None:
    flows = [deployment(directory, python, model) for model in ("m1", "m2", "m1", "m2")]
    pids = [int(flow.communicate()[0]) for flow in flows]
    assert [flow.returncode for flow in flows] == [0] * 4
    (live,) = endpoints.running(directory)
    assert alive(directory) == [live.pid]
    assert live.pid in pids
    assert files(directory) == ["sample.*.job", "sample.*.log", "sample.json", "sample.lock"]


def test_a_killed_deployment_is_cleaned_up_by_the_next(
    directory: Path, python: str, tmp_path: Path
) -> None:
    first = start(directory, python)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        deployment(directory, python, "m2", "mute", str(pipe)) as flow,
        pipe.open("rb") as up,  # opens when the new process is there
    ):
        flow.kill()
        flow.wait()
        assert len(alive(directory)) == 2
        assert start(directory, python) == first
        assert up.read() == b"", "the pipe ends with the process"
    assert alive(directory) == [first.pid]


def test_who_waits_too_long_for_another_deployment_is_told_to_try_again(
    directory: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "_STOP_PATIENCE", 0.1)
    with (
        Records(directory, "sample").lock(1),
        pytest.raises(TransientError, match=r"another deployment .* \(waited 0\.1 s\)"),
    ):
        endpoints.stop(directory, "sample")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that answers nobody."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.usefixtures("proxy")
def test_a_proxy_is_not_asked_for_this_machine(directory: Path, python: str, replies: str) -> None:
    assert start(directory, python) == endpoints.find(directory, "sample")
    assert ask(f"{replies}/200") == "子裙"


def test_a_process_that_nobody_collected_counts_as_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.born(process.pid) is None
    process.wait()


@pytest.mark.skipif(shutil.which("ps") is None, reason="the machine has no ps")
def test_without_proc_processes_are_told_apart_by_ps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    marker = str(tmp_path / "marker")
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-SEc", program, marker], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        birth = processes.born(process.pid)
        assert birth
        assert processes.with_argument(marker) == [process.pid]
        processes.stop(process.pid, "another birth", 5)
        assert process.poll() is None
        processes.stop(process.pid, birth, 5)
    assert processes.born(process.pid) is None
    assert processes.with_argument(marker) == []


class Replies(BaseHTTPRequestHandler):
    """Answers as the path says."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = int(self.path.split("/")[1])
        body = {"answer": asked["messages"][-1]["content"][::-1]}
        if status != 200:
            body = {"error": {"message": "so it is", "type": "x"}}  # type: ignore[dict-item]
        data = b"<html>" if self.path.startswith("/404") else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def replies() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Replies) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask(url: str) -> str:
    return endpoints.invoke(url, [{"role": "user", "content": "裙子"}], 10)


def test_an_answer_is_returned(replies: str) -> None:
    assert ask(f"{replies}/200") == "子裙"


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (429, TransientError, "so it is"),
        (503, TransientError, "so it is"),
        (504, TransientError, "so it is"),
        (400, JobFailed, "status 400: so it is"),
        (500, JobFailed, "status 500: so it is"),
        (404, JobFailed, "status 404: <html>"),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(
    replies: str, status: int, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(f"{replies}/{status}")


def test_a_server_that_is_not_there_is_transient() -> None:
    with pytest.raises(TransientError, match="does not answer"):
        ask(f"http://127.0.0.1:{free_port()}")


def test_a_real_model_is_served_as_it_answers_offline(directory: Path, tmp_path: Path) -> None:
    base = tiny_models.glm(tmp_path / "base")
    job = Job(
        action="serve",
        family="tiny",
        base=str(base),
        decode=DecodeSpec(max_new_tokens=16),
        name="sample",
        threads=1,
    )
    talks = [tiny_models.record(number)["messages"][:1] for number in range(4)]
    served: list[str] = []

    def accept(url: str) -> None:
        served.extend(endpoints.invoke(url, talk, 60) for talk in talks)

    running = endpoints.start(directory, "sample", job, sys.executable, 120, "digest", accept)
    assert endpoints.find(directory, "sample") == running
    assert endpoints.stop(directory, "sample") is True
    assert alive(directory) == []
    assert not launching.answers(running.url)
    loaded = model.load(job)
    assert job.decode
    offline = [generate.answer(loaded, [talk], job.decode, 128)[0].text for talk in talks]
    assert served == offline
