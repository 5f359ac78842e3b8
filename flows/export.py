"""Write a tuned model into a folder of its own: for vLLM, for the Hub, for ChatGLM's own scripts.

python -m flows.export --subject.name sample --to merged                    adapters merged into the weights
python -m flows.export --subject.name sample --form adapter --to adapter    peft's layout, as it is

A checkpoint of the published P-Tuning or LoRA scripts is taken over on the way: name it as `--subject.tuned`, with
`--subject.kind model --subject.base.uri ../chatglm2-6b --subject.base.family chatglm`.
"""

from __future__ import annotations

from prefect import flow

from flows import cli
from tasks import preflight
from tasks.config import ExportConfig
from tasks.tuned_models import export, merge, model_of


@flow(name="export", flow_run_name="export-{config.form}")
def export_model(config: ExportConfig = ExportConfig()) -> str:
    """Write a model into a folder and return its path.

    Args:
        config: Which model, in which form, where to.
    """
    preflight.check_export(config)

    model = model_of(config.subject, config.compute)
    if config.form == "merged":
        model = merge(model, on=config.compute)
    folder: str = export(model, config.form, config.to, on=config.compute)
    return folder


if __name__ == "__main__":
    cli.main(export_model, ExportConfig)
