"""Stop what is served on this machine.

python -m flows.teardown          every endpoint
python -m flows.teardown NAME     one of them
"""

from __future__ import annotations

from prefect import flow

from flows import cli
from tasks import endpoints
from tasks.serving import folder, remove


@flow(name="teardown", flow_run_name="teardown-{name}")
def teardown(name: str = "") -> list[str]:
    """Stop served models and return the names of those that were stopped.

    Args:
        name: The endpoint to stop; empty stops all.
    """
    names = [name] if name else [running.name for running in endpoints.running(folder())]
    return [each for each in names if remove(each)]


if __name__ == "__main__":
    cli.stop(teardown)
