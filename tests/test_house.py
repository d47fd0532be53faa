"""The house rules that code can break without any other test noticing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "tag2mask"
MODULES = sorted(p for p in SOURCE.rglob("*.py"))

# Each level may import from the levels before it.
LEVELS = [
    {"errors", "naming"},
    {"types", "progress"},
    {"compute", "run"},
    {"data", "backbones", "refine"},
    {"features", "pseudo"},
    {"localize", "evaluate", "train"},
    {"affinity", "methods", "segment"},
    {"recipes", "report", "doctor"},
    {"stages"},
    {"summary"},
    {"pipeline"},
    {"cli", "__main__"},
]
# Known exceptions, each with its reason.
ALLOWED = {
    ("data", "evaluate"),  # the download of a public data set turns its trimaps into truth masks, read as any truth
}


def room(module: str) -> str:
    return module.removeprefix("tag2mask.").split(".")[0]


def imports(path: Path) -> set[str]:
    """tag2mask rooms a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tag2mask"):
            names = [node.module] if node.module != "tag2mask" else [f"tag2mask.{a.name}" for a in node.names]
            found |= {room(name) for name in names}
        elif isinstance(node, ast.Import):
            found |= {room(a.name) for a in node.names if a.name.startswith("tag2mask.")}
    return found - {"__version__"}


def test_imports_go_one_way() -> None:
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    wrong = []
    for path in MODULES:
        own = room(".".join(path.relative_to(SOURCE).with_suffix("").parts))
        if own == "__init__":
            continue
        for other in imports(path) - {own}:
            assert other in level, f"{other} has no level: give it one"
            if level[other] > level[own] and (own, other) not in ALLOWED:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert not wrong, wrong


def test_every_room_has_a_level() -> None:
    rooms = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in MODULES} - {"__init__"}
    assert rooms == set().union(*LEVELS)


def test_only_evaluate_opens_truth() -> None:
    """`mask_path` is carried by the readers of data sets, opened by evaluate alone."""
    readers = {}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "mask_path"]
        calls = [
            ast.unparse(call)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and any(isinstance(n, ast.Attribute) and n.attr == "mask_path" for n in ast.walk(call))
        ]
        if uses:
            readers[path.relative_to(SOURCE).as_posix()] = calls
    openers = {
        name
        for name, calls in readers.items()
        if any(c.startswith(("read_", "images.read", "Image.open")) for c in calls)
    }
    assert openers <= {"evaluate.py"}, readers
    assert "evaluate.py" in openers  # otherwise this test looks for the wrong thing


def test_training_code_cannot_name_truth() -> None:
    for name in ("train.py", "localize.py", "pseudo.py", "features.py", "data/batches.py", "data/augment.py"):
        text = (SOURCE / name).read_text(encoding="utf-8")
        assert "mask_path" not in text and "evaluate" not in text and "read_truth" not in text, name
    for path in (SOURCE / "methods").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "mask" not in text.replace("masked_mean", "").replace("tag2mask", "").lower() or path.name == "check.py"


def test_nothing_is_pickled() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("pickle.load", "pickle.loads", "pickle.dump", "torch.save", "joblib.load"), path
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", path
                if called == "torch.load":
                    assert keywords.get("weights_only") == "True", path


def test_help_answers_without_heavy_imports() -> None:
    code = "import sys; from tag2mask.cli import dispatch; dispatch(['--help']); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "timm", "numpy", "matplotlib", "tyro", "rich", "PIL"):
        assert f"'{heavy}'" not in out
