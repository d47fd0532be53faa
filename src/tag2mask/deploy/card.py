"""A model card in the form of the Hugging Face hub: a head in YAML, then what a reader must know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tag2mask.deploy.stored import Stored
from tag2mask.errors import some
from tag2mask.files import read_object
from tag2mask.plan.execute import Execution


def model_card(stored: Stored, execution: Execution, supervision: Sequence[str]) -> str:
    """The card's text.

    Args:
        supervision: what the run was told, a sentence each.
    """
    scores = _scores(execution)
    return f"---\n{yaml.safe_dump(_head(execution, scores), sort_keys=False, allow_unicode=True)}---\n" + _body(
        stored, execution, supervision, scores
    )


def _scores(execution: Execution) -> dict[str, Any] | None:
    """Of the predictions for validation photos, where there was truth."""
    stage = execution.folders.get("scores")
    content = None if stage is None else read_object(stage.folder / "scores.json")
    return None if content is None else content.get("predictions")


def _head(execution: Execution, scores: dict[str, Any] | None) -> dict[str, Any]:
    name = execution.data.train.name
    head: dict[str, Any] = {
        "library_name": "tag2mask",
        "pipeline_tag": "image-segmentation",
        "license": "other",
        "license_name": "see-licences-below",
        "tags": [
            "semantic-segmentation",
            "weakly-supervised",
            f"tag2mask-{execution.settings.method}".replace(":", "-"),
        ],
    }
    if scores is not None:
        metric = {"type": "mean_iou", "value": round(float(scores["mean_iou"]) / 100, 6), "name": "mean IoU (PASCAL)"}
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": name, "type": name, "split": "validation"},
            "metrics": [metric],
        }
        head["model-index"] = [{"name": f"{name}-{execution.settings.method}", "results": [result]}]
    return head


def _body(stored: Stored, execution: Execution, supervision: Sequence[str], scores: dict[str, Any] | None) -> str:
    classes = "\n".join(f"| {value} | {name} |" for value, name in enumerate(("background", *stored.classes)))
    told = "\n".join(f"- {line}" for line in supervision)
    return f"""
# {execution.data.train.name}: pixel masks learnt from image tags

{stored.version}; method `{execution.settings.method}`, segmenter `{execution.settings.segmenter.name}`, backbone
`{execution.settings.backbone.name}`.

```python
import tag2mask

segmenter = tag2mask.load("this folder")
mask, probabilities = segmenter.predict("photo.jpg")
```

| value in a mask | class |
|---|---|
{classes}

## What it learnt from

{told}

In full, for programs (`signals` are equal for models whose scores may stand in one column):

```json
{json.dumps(dict(stored.passport), indent=1)}
```

## How good it is

{_measured(scores, execution.data.shared)}

## Licences

The code is Apache-2.0. The weights began as those of {_origin(stored.passport)}
and learnt from {len(execution.data.train)} photos whose licence this card does not know; whoever shares it must.
"""


def _measured(scores: dict[str, Any] | None, shared: int) -> str:
    if scores is None:
        return "Not measured: there was no truth for validation photos. Look at its masks before relying on them."
    rows = "\n".join(f"| {name} | {'-' if iou is None else f'{iou:.1f}'} |" for name, iou in scores["iou"].items())
    seen = f"of which it learned from {shared}: too good a figure" if shared else "not seen in training"
    return (
        f"On {some(scores['photos'], 'validation photo')} with true masks, {seen}: mean IoU "
        f"{scores['mean_iou']:.1f} (PASCAL's, background included).\n\n| class | IoU |\n|---|---|\n{rows}"
    )


def _origin(passport: Mapping[str, Any]) -> str:
    """Of the segmenter's weights, or of the method's, which the segmenter shares."""
    of = {row["network"]: row for row in passport["weights"]}
    row = of.get("segmenter", of["method"])
    licence = "" if row["licence"] is None else f"; licence: {row['licence']}"
    return f"the backbone `{row['backbone']}` ({row['source']}{licence})"
