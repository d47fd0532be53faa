"""A bundle: the segmenter's weights, what they mean, and a model card; nothing pickled, nothing of the data set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tag2mask import passport, pipeline, summary
from tag2mask.deploy import card
from tag2mask.deploy.stored import FILE, described, open_stored
from tag2mask.evaluate import write_classes
from tag2mask.files import check_outside_runs, whole_folder, write_json
from tag2mask.plan.folder import Run


def write_bundle(run_folder: Path | str, out: Path | str) -> Path:
    """``model.safetensors``, ``tag2mask.json``, ``classes.txt`` and ``README.md`` of a finished run's segmenter.

    Raises:
        InputError: the run is not finished, its data set is not there any more, or ``out`` is not empty.
    """
    check_outside_runs(Path(out))
    stored = open_stored(run_folder)
    execution = pipeline.reopen(Run(Path(run_folder), existing=True))
    pipeline.check_finished(execution)
    stored = replace(stored, passport=passport.portable(passport.passport(execution)))
    text = card.model_card(stored, execution, summary.supervision(execution))
    with whole_folder(Path(out)) as folder:
        shutil.copyfile(stored.weights.model, folder / stored.weights.model.name)
        write_json(folder / FILE, described(stored))
        write_classes(folder, stored.classes)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return Path(out)
