"""What stands around a prompt: known by name, or a text of one's own.

The template is kept with the dataset, and with the model that is trained on it: training, prediction and serving
apply it alike, and nobody gives it twice. The rows themselves keep the prompt as it was written.
"""

from __future__ import annotations

PLACE = "{prompt}"
"""Where the prompt goes; it stands in a template once."""

TEMPLATES = {
    "none": "",
    # Source: the instruction text of MosaicML's MPT fine-tuning on SageMaker, applied there before the upload
    "question": (
        "Write a response that appropriately answers the question below.\n"
        "### Question:\n{prompt}\n\n### Response:\n"
    ),
}


def text_of(template: str) -> str:
    """Return the text of a template: of a name what it stands for, else itself; empty is none.

    Raises:
        ValueError: It is no name, and does not hold {prompt} exactly once.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    if template.count(PLACE) != 1:
        names = ", ".join(TEMPLATES)
        raise ValueError(
            f"template: must be one of {names}, or hold {PLACE} exactly once (found {template!r})"
        )
    return template
