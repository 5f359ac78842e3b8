"""See the line of models of a name, choose its champion, compare two of its versions.

python -m flows.champions                                     every name, and its champion
python -m flows.champions NAME                                every version of a name
python -m flows.champions NAME promote VERSION --why TEXT     make a version champion, whatever its verdict
python -m flows.champions NAME roll-back --why TEXT           back to the champion before
python -m flows.champions NAME compare VERSION VERSION        row by row, with intervals
"""

from __future__ import annotations

import argparse
import sys
from typing import Literal

from prefect import flow
from rich.console import RenderableType

from flows import cli
from tasks import comparing, registry
from tasks.artifacts import Scores
from tasks.config import MetricsConfig
from tasks.errors import ConfigError, PipelineError
from tasks.judging import Difference
from tasks.reports import terminal


@flow(name="champions", flow_run_name="{action}-{name}")
def champions(
    name: str, action: Literal["promote", "roll-back"], version: int = 0, why: str = ""
) -> int:
    """Change the champion of a name by a person's decision, and return its version.

    Args:
        name: The line of models.
        action: Promote a version, or roll back to the champion before the present one.
        version: The version to promote.
        why: The reason, which is kept.
    """
    changed = (
        registry.promote(name, version, why)
        if action == "promote"
        else registry.roll_back(name, why)
    )
    return changed.champion or 0


def compare(name: str, versions: list[int]) -> list[Difference]:
    """Return the differences of two versions, the first minus the second.

    Raises:
        ConfigError: There are not two such versions, or one was registered without its scores.
        DataError: They answered other rows.
    """
    if len(versions) != 2:
        raise ConfigError(
            f"champions: compare needs two versions (found {len(versions)}). "
            "Write NAME compare VERSION VERSION."
        )
    if versions[0] == versions[1]:
        raise ConfigError(
            f"champions: a version cannot be compared with itself (found {versions[0]} twice). "
            "Name two."
        )
    scores = []
    for version in versions:
        evidence = registry.entry_of(name, version).evidence
        if not evidence:
            raise ConfigError(
                f"champions.{name}: version {version} was registered without its scores. "
                "Run it again."
            )
        scores.append(Scores.model_validate_json(evidence))
    return comparing.compare(scores[0], scores[1], MetricsConfig())


_WANTED = {0: "no version", 1: "one version"}


def _read(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.champions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", default="", help="the line of models; none lists all")
    actions = ("list", "promote", "roll-back", "compare")
    parser.add_argument(
        "action", nargs="?", default="list", choices=actions, help="what to do; none lists"
    )
    parser.add_argument("versions", nargs="*", type=int, help="numbers of the first column")
    parser.add_argument("--why", default="", help="the reason, which is kept")
    return parser.parse_args(arguments)


def _shown(asked: argparse.Namespace) -> RenderableType:
    name = asked.name
    if not name:
        return terminal.lines_table({each: registry.line(each) for each in registry.names()})
    if name not in registry.names():
        known = ", ".join(registry.names()) or "none"
        raise ConfigError(
            f"champions: nothing is registered as {name!r} (found {known}). Choose one of them."
        )
    if asked.action == "compare":
        return terminal.differences_table(compare(name, asked.versions))
    wanted = {"promote": 1, "roll-back": 0, "list": 0}[asked.action]
    if len(asked.versions) != wanted:
        raise ConfigError(
            f"champions: {asked.action} takes {_WANTED[wanted]} (found {len(asked.versions)}). "
            "See --help for the forms."
        )
    if asked.action == "list" and asked.why:
        raise ConfigError(
            f"champions: nothing is decided here (found --why {asked.why!r}). "
            "Add promote VERSION or roll-back."
        )
    if asked.action != "list":
        champions.fn(name, asked.action, sum(asked.versions), asked.why)
    return terminal.versions_table(registry.line(name))


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    asked = _read(arguments)
    try:
        terminal.show(_shown(asked))
    except PipelineError as reason:
        terminal.show(f"error: {reason}", stream=sys.stderr)
        return cli.EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
