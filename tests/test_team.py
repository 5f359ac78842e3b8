"""Processes that train together: how they start, and how they end when one of them does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from together import PROJECT

from tasks.trainer import launch
from tasks.trainer.errors import ConfigError
from tasks.trainer.job import EXIT_CONFIG
from tasks.trainer.team import EXIT_LEFT, PeerLost, Team


def test_alone_nothing_is_asked_of_anybody() -> None:
    with Team.join() as team:
        assert (team.rank, team.size, team.leads, team.alone, team.machines) == (
            0,
            1,
            True,
            True,
            1,
        )
        assert team.share([3, 1, 2]) == [3, 1, 2]
        assert team.total(1, 0.5) == [1.0, 0.5]
        assert (team.agree(True), team.agree(False), team.most(4)) == (True, False, 4)
        assert team.gather("a") == ["a"]
        parameter = torch.nn.Parameter(torch.ones(2))
        team.add_gradients([parameter])
        assert parameter.grad is None


def test_alone_torch_distributed_is_not_imported() -> None:
    code = (
        "import sys; from tasks.trainer import team; print('torch' in sys.modules)\n"
        "with team.Team.join() as alone: alone.total(1.0)\n"
        "print('torch.distributed.tensor' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "False"]


def test_each_row_of_a_step_goes_to_one_process() -> None:
    teams = [Team(rank, 3, torch.device("cpu")) for rank in range(3)]
    shares = [team.share(range(7)) for team in teams]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE: not a number \(found 'two'"):
        Team.join()


def test_a_broken_connection_says_that_another_process_ended() -> None:
    def lose(message: str) -> None:
        with Team(0, 2, torch.device("cpu")):
            raise RuntimeError(message)

    with pytest.raises(PeerLost, match="process 0 of 2: another process"):
        lose("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:17592.")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        lose("mat1 and mat2 shapes cannot be multiplied")


PROGRAM = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
def stop(*_):
    sys.stdout.write(f"{rank} was asked\\n"); sys.stdout.flush(); os._exit(75)
signal.signal(signal.SIGTERM, stop)
local, beside = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
what = sys.argv[1 + local]
sys.stdout.write(f"{rank} of {os.environ['WORLD_SIZE']} on {os.environ['LOCAL_RANK']}\\n")
sys.stdout.flush()
open(f"ready-{local}", "w").close()
while not all(os.path.exists(f"ready-{other}") for other in range(beside)): time.sleep(0.01)
if what == "wait": signal.pause()
if what == "until stdin ends": sys.stdin.read(); os._exit(75)
if what == "die": os.kill(os.getpid(), signal.SIGKILL)
if what == "lose":
    signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(0.3); os._exit(76)
sys.exit(int(what))
"""


def launched(folder: Path, *doings: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a small program in place of the trainer, in one process for each doing."""
    package = folder / "trainer"
    package.mkdir()
    for path in (PROJECT / "tasks" / "trainer").glob("*.py"):
        (package / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (package / "__main__.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "trainer.launch", "--processes", str(len(doings)), *options]
    return subprocess.Popen(
        [*command, *doings], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("doings", "code"),
    [
        (("0", "0"), 0),
        (("wait", "64"), 64),
        (("65", "wait"), 65),
        (("lose", "die"), -signal.SIGKILL),
        (("0", "1"), 1),
        (("wait", "76"), EXIT_LEFT),
    ],
)
def test_several_end_as_the_one_that_ended_badly(
    tmp_path: Path, doings: tuple[str, ...], code: int
) -> None:
    process = launched(tmp_path, *doings)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert "0 of 2 on 0" in said
    assert "1 of 2 on 1" in said
    killed = [line for line in said.splitlines() if "ended with signal" in line]
    assert killed == ["process 1 ended with signal 9: the others are ended too"] * (code < 0)


def test_a_request_to_stop_reaches_all(tmp_path: Path) -> None:
    process = launched(tmp_path, "wait", "wait")
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2)]
    process.terminate()
    said += process.communicate(timeout=60)[0].splitlines(keepends=True)
    assert process.returncode == 75
    assert {"0 was asked\n", "1 was asked\n"} <= set(said)


def test_the_end_of_standard_input_stops_all(tmp_path: Path) -> None:
    process = launched(tmp_path, "wait", "wait", options=("--watch-stdin",))
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_the_processes_end_with_their_launcher(tmp_path: Path) -> None:
    process = launched(tmp_path, "until stdin ends", "until stdin ends")
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    process.kill()
    process.wait(60)
    assert process.stdout.read() == ""  # at its end, because nobody holds it any more


def test_a_machine_that_is_not_one_of_those_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--processes", "1", "--machines", "2", "--machine", "2", "train"]
    assert launch.main(arguments) == EXIT_CONFIG
    assert "[error] launch: there is nothing to start" in capsys.readouterr().out


def test_processes_of_several_machines_are_numbered_through(tmp_path: Path) -> None:
    options = ("--machines", "2", "--machine", "1", "--address", "10.0.0.1", "--port", "7777")
    process = launched(tmp_path, "0", "0", options=options)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert sorted(said.splitlines()) == ["2 of 4 on 0", "3 of 4 on 1"]
