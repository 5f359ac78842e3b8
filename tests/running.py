"""Runs the command line in a copy of this project, as a person would, and reads what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tiny_models

PROJECT = Path(__file__).parents[1]
STATES = "Completed|Cached|Failed|cached|will run|depends"


@dataclass
class Project:
    """A copy of the repository with a source and a base model of its own."""

    folder: Path
    api: str
    """Address of the Prefect server; empty leaves the run to find or start one."""
    knobs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, api: str, train: int = 64, dev: int = 60) -> Project:
        """Copy what a run needs, and write rows and a small random model."""
        shutil.copytree(
            PROJECT,
            folder,
            ignore=shutil.ignore_patterns(
                ".*", "__pycache__", "tests", "data", "base", "docs", "build", "*.egg-info"
            ),
        )
        rows = folder / "rows"
        rows.mkdir()
        tiny_models.write_rows(rows / "train.json", [tiny_models.record(n) for n in range(train)])
        dev_rows = [tiny_models.record(1000 + n) for n in range(dev)]
        tiny_models.write_rows(rows / "dev.json", dev_rows)
        tiny_models.glm(folder / "tiny-base")
        knobs = {
            "name": "test",
            "source.uri": "rows",
            "base.uri": "tiny-base",
            "data.format": "messages",
            "train.max_steps": "8",
            "train.learning_rate": "0.002",
            "train.global_batch": "8",
            "train.dev_rows": "8",
            "train.checkpoint_steps": "4",
            "decode.max_new_tokens": "8",
            "serving.when": "never",
        }
        return cls(folder, api, knobs)

    @property
    def home(self) -> Path:
        """Where the copy keeps its store, cache and work."""
        return self.folder / ".finetune"

    def command(self, *more: str, **knobs: str) -> list[str]:
        """Return the command line; knobs with dots in their names are given as `a__b`."""
        chosen = self.knobs | {name.replace("__", "."): value for name, value in knobs.items()}
        flags = [word for name, value in chosen.items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", "flows.finetune", *flags, *more]

    def environment(self) -> dict[str, str]:
        """Return the environment of a user of this machine with this server."""
        ours = ("FINETUNE_HOME", "PREFECT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        server = {"PREFECT_API_URL": self.api} if self.api else {}
        home = {"PREFECT_HOME": str(self.folder.parent / "prefect")}
        return kept | server | home | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def start(self, *more: str, **knobs: str) -> subprocess.Popen[str]:
        """Start a run and return its process."""
        return subprocess.Popen(
            self.command(*more, **knobs),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *more: str, expect: int = 0, **knobs: str) -> Said:
        """Run to the end and return what was said.

        Raises:
            AssertionError: It ended with another code than expected.
        """
        done = subprocess.run(
            self.command(*more, **knobs),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return Said(done.stdout, done.stderr)

    def run_module(self, module: str, *words: str) -> str:
        """Run another program of the copy to its end and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    def processes(self) -> list[str]:
        """Return the command lines of the processes that work for this copy."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                cwd = (place / "cwd").readlink()
            except OSError:
                continue
            if cwd == self.folder and words:
                found.append(words)
        return found


@dataclass
class Said:
    """What a run printed."""

    out: str
    err: str

    @property
    def states(self) -> dict[str, str]:
        """The state of each step, by its name."""
        found = re.findall(rf"^(\S+)\s+({STATES})\b", self.out, re.MULTILINE)
        return dict(found)

    def reason(self, step: str) -> str:
        """Return what is said about a step."""
        found = re.search(rf"^{re.escape(step)}\s+(?:{STATES})\s+(.*)$", self.out, re.MULTILINE)
        assert found, self.out
        return found[1].strip()

    @property
    def digests(self) -> dict[str, str]:
        """The digest that each step produced."""
        return dict(
            re.findall(r"^(\S+)\s+(?:Completed|Cached)\b.*\((\w{8})\)$", self.out, re.MULTILINE)
        )

    @property
    def table(self) -> list[str]:
        """The lines of the score table."""
        return [line for line in self.out.splitlines() if "–" in line and "(" in line]


def json_lines(path: Path) -> list[dict[str, object]]:
    """Read a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
