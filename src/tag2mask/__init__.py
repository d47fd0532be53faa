"""tag2mask: image tags in, pixel masks out.

>>> import tag2mask
>>> tag2mask.label("photos", out="run")                      # tags -> masks of those photos     # doctest: +SKIP
>>> tag2mask.train("photos", out="run")                      # tags -> a trained segmenter       # doctest: +SKIP
>>> tag2mask.predict("run", "new_photos", out="masks")       # masks of new, untagged photos     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; `__getattr__` does it when the program runs
    from tag2mask.deploy import load
    from tag2mask.errors import InputError
    from tag2mask.evaluate import evaluate_folders
    from tag2mask.pipeline import label, train
    from tag2mask.prediction import predict
    from tag2mask.recipes import RunSettings, recipe

__version__ = "0.2.0"

_MODULES = {
    "label": "tag2mask.pipeline",
    "train": "tag2mask.pipeline",
    "predict": "tag2mask.prediction",
    "RunSettings": "tag2mask.recipes",
    "recipe": "tag2mask.recipes",
    "load": "tag2mask.deploy",
    "evaluate_folders": "tag2mask.evaluate",
    "InputError": "tag2mask.errors",
}
__all__ = ["InputError", "RunSettings", "evaluate_folders", "label", "load", "predict", "recipe", "train"]


def __getattr__(name: str) -> Any:
    """Names are imported when they are used, so that `import tag2mask` costs nothing."""
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'tag2mask' has no attribute '{name}'")
