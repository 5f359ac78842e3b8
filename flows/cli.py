"""`python -m flows.X`: run a flow here, from the knobs, from `prefect.yaml`, or only plan it.

Uses the Prefect server that is configured or listening on this machine, else a temporary one. The terminal shows
our lines and a bar; everything else is in the logs of the run.
"""

from __future__ import annotations

import logging
import signal
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from prefect import Flow
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import BaseModel

from flows import knobs, servers
from tasks import preflight, publishing, steps, store
from tasks.artifacts import Artifact, EvaluateResult, FinetuneResult
from tasks.config import EvaluateConfig, ExportConfig, FinetuneConfig
from tasks.errors import ConfigError, PipelineError
from tasks.reports import terminal

EXIT_FAILED, EXIT_REFUSED, EXIT_STOPPED = 1, 2, 130


@dataclass
class Command:
    """What was asked for on the command line."""

    deployment: str = ""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    dry_run: bool = False
    refresh: list[str] = field(default_factory=list)
    help: bool = False


def read(arguments: list[str]) -> Command:
    """Read the command line.

    Raises:
        ConfigError: A knob has no value, or there are two deployments.
    """
    command, rest = Command(), list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            command.help = True
        elif word == "--dry-run":
            command.dry_run = True
        elif word.startswith("--"):
            name, mark, value = word[2:].partition("=")
            if not mark and not rest:
                raise ConfigError(f"--{name}: no value (found the end). Write --{name} VALUE.")
            value = value if mark else rest.pop(0)
            target: Any = command.refresh if name == "refresh" else command.pairs
            target.append(value if name == "refresh" else (name, value))
        elif command.deployment:
            raise ConfigError(
                f"{word}: a second deployment (found {command.deployment} too). Name one, "
                "and write knobs as --name VALUE."
            )
        else:
            command.deployment = word
    return command


def deployments(flow: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of each deployment of a flow in `prefect.yaml`, by name."""
    text = (store.PROJECT / "prefect.yaml").read_text(encoding="utf-8")
    return {
        deployment["name"]: deployment.get("parameters") or {}
        for deployment in yaml.safe_load(text)["deployments"]
        if deployment["entrypoint"].split(".")[-2] == flow
    }


def configure(command: Command, flow: str, model: type[BaseModel]) -> BaseModel:
    """Return the configuration: defaults, under a deployment, under single knobs.

    Raises:
        ConfigError: The deployment or a knob does not exist, or a value cannot be.
    """
    known, values = deployments(flow), {}
    if command.deployment:
        if command.deployment not in known:
            raise ConfigError(
                f"{command.deployment}: no such deployment in prefect.yaml "
                f"(found {', '.join(known)}). Choose one of them, or none."
            )
        values = known[command.deployment].get("config", {})
    there_are = knobs.knobs(model)
    chosen = knobs.parse(command.pairs, there_are)
    config = knobs.build(model, knobs.merge(values, chosen))
    knobs.refuse_idle(command.pairs, there_are, config)
    return config


def usage(flow: Flow[Any, Any], model: type[BaseModel]) -> str:
    """Return the text of `--help`."""
    lines = [
        (flow.description or "").split("\n\nArgs:")[0],
        "",
        f"  python -m flows.{flow.name} [DEPLOYMENT] [--knob VALUE]... [--dry-run] [--refresh STEP]",
        "",
        "  DEPLOYMENT      a name from prefect.yaml: "
        + (", ".join(deployments(flow.name)) or "none"),
        "  --dry-run       print which step would run and why; run nothing",
        "  --refresh STEP  run this step again although its result is known; may be repeated",
    ]
    section = "none yet"
    for knob in knobs.knobs(model):
        head = knob.name.rpartition(".")[0] + (f" ({knob.when})" if knob.when else "")
        if head != section:
            section = head
            lines += ["", f"{section}:"] if section else [""]
        lines += [f"  --{knob.name}  {knob.kind}  [{_shown(knob.default)}]"]
        lines += textwrap.wrap(knob.help, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else repr(value)


def main(flow: Flow[Any, Any], model: type[BaseModel]) -> None:
    """Run a flow from the command line; exit with 0 only when it came to its end."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # leave through the same door as Ctrl-C
    try:
        command = read(sys.argv[1:])
        if command.help:
            terminal.show(usage(flow, model))
            return
        config = configure(command, flow.name, model)
        _refresh(command.refresh)
        _check(config)
        if command.dry_run:
            plan(flow, config)
            return
        with temporary_settings({PREFECT_API_URL: server()}):
            shown = summary(run(flow, config))
    except PipelineError as reason:
        raise SystemExit(_refused(reason)) from None
    except (KeyboardInterrupt, TerminationSignal):
        terminal.show("stopped: finished steps and checkpoints are kept; run it again to go on")
        raise SystemExit(EXIT_STOPPED) from None
    terminal.show(*shown)


def _check(config: BaseModel) -> None:
    """Say what cannot work before a server is started for it."""
    if isinstance(config, FinetuneConfig):
        preflight.check(config)
    elif isinstance(config, EvaluateConfig):
        preflight.check_evaluation(config)
    elif isinstance(config, ExportConfig):
        preflight.check_export(config)


def _refused(reason: PipelineError) -> int:
    terminal.show(f"error: {reason}", stream=sys.stderr)
    return EXIT_REFUSED if isinstance(reason, ConfigError) else EXIT_FAILED


def _refresh(names: list[str]) -> None:
    known = {step.name: step for step in steps.every()}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--refresh: no such step (found {name!r}). Choose among {', '.join(known)}."
            )
        known[name].refresh_cache = True


def plan(flow: Flow[Any, Any], config: BaseModel) -> None:
    """Print what a run would do."""
    with steps.planning() as made:
        flow.fn(config)
    terminal.show(terminal.steps_table(made.lines))


Result = FinetuneResult | EvaluateResult | str


def run(flow: Flow[Any, Any], config: BaseModel) -> Result:
    """Run the flow, showing a line as each step ends."""
    quiet()
    with steps.noting(lambda line: terminal.show(terminal.step_line(line))):
        return cast(Result, flow(config))


def quiet() -> None:
    """Keep Prefect's and the libraries' lines out of the terminal; the run's logs have them.

    To the end of the process: what Prefect still has to send when a run is refused, it says at the exit.
    """
    for name in ("prefect", "root", "httpx", ""):
        for handler in logging.getLogger(name).handlers:
            handler.setLevel(logging.CRITICAL)


def stop(flow: Flow[Any, Any]) -> None:
    """Run the teardown flow from the command line; without a server its steps are called directly."""
    words = sys.argv[1:]
    if "-h" in words or "--help" in words:
        terminal.show(sys.modules["__main__"].__doc__ or "")
        return
    name = words[0] if words else ""
    if len(words) > 1:
        told = ConfigError(f"teardown: one name at most (found {' '.join(words)}). Name one.")
        raise SystemExit(_refused(told))
    url = running_server()
    try:
        if url:
            quiet()
            with temporary_settings({PREFECT_API_URL: url}):
                stopped = flow(name)
        else:
            with steps.directly():
                stopped = flow.fn(name)
    except PipelineError as reason:
        raise SystemExit(_refused(reason)) from None
    nothing = f"nothing is served under the name {name}" if name else "nothing is served"
    terminal.show(f"stopped {', '.join(stopped)}" if stopped else nothing)


def running_server() -> str | None:
    """Return the Prefect server that is configured or listens here, if it answers."""
    configured = PREFECT_API_URL.value()
    if configured and not servers.answers(configured):
        terminal.show(
            f"PREFECT_API_URL {configured} does not answer: looking on", stream=sys.stderr
        )
    candidates = (configured, servers.USUAL)
    return next((url for url in candidates if url and servers.answers(url)), None)


def server() -> str:
    """Return the server that is running, else a temporary one that ends with this process."""
    url = running_server()
    if url is None:
        terminal.show("starting a temporary Prefect server (`make serve` keeps one running)")
        url = servers.temporary()
    return url


def summary(result: Result) -> list[Any]:
    """Return the last screen: scores, one prompt before and after, where to look next."""
    if isinstance(result, str):
        return [terminal.next_steps([f"model    {result}"])]
    table = terminal.score_table(result.scores, result.verdict)
    if isinstance(result, EvaluateResult):
        report = f"report   {_where(result.report)}/{publishing.REPORT}" if result.report else ""
        lines = [f"answers  {_where(result.answers['tuned'])}", report]
        return [table, "", terminal.next_steps([line for line in lines if line])]
    row = _telling(result)
    return [
        table,
        "",
        terminal.answers(row.prompt, row.reference, row.base, row.tuned),
        "",
        terminal.next_steps(_next(result)),
    ]


def _telling(result: FinetuneResult) -> Any:
    """Return the row in the middle of the tuned model's scores: neither its best nor its worst."""
    rows = publishing.rows_side_by_side(result.answers, result.scores["tuned"])
    return sorted(rows, key=lambda row: row.scores["bleu_4"])[len(rows) // 2]


def _next(result: FinetuneResult) -> list[str]:
    answers = result.answers["tuned"]
    lines = [f"model    {_where(result.registration.model)}", f"answers  {_where(answers)}"]
    if result.endpoint:
        url = result.endpoint.url
        lines += [f"chat     {url}", f"stop     python -m flows.teardown {result.endpoint.name}"]
    else:
        lines += [f"served   no: {_unserved(result)}"]
    if result.report:
        lines += [f"report   {_where(result.report)}/{publishing.REPORT}"]
    return [*lines, "pages    make serve, then open the run in the Prefect UI"]


def _unserved(result: FinetuneResult) -> str:
    if result.verdict.outcome == "pass":
        return "serving.when is never"
    return f"the verdict is {result.verdict.outcome} (--serving.when always overrides it)"


def _where(artifact: Artifact) -> str:
    """Return where an artifact lies, as a person would look for it."""
    remote = store.is_remote(artifact.uri)
    return artifact.uri if remote else str(store.resolve(artifact.uri))
