"""Rules of the code that code can break without any other test noticing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tag2mask"
FILES = sorted(SOURCE.rglob("*.py"))

# Packages, and modules beside them; each level imports from the levels before it alone.
LEVELS = [
    {"errors", "hub", "naming", "software"},
    {"archives", "files", "interrupt", "settings", "types"},
    {"processes", "shards"},
    {"compute", "progress", "protocols"},
    {"concurrency", "data", "backbones", "refine", "pseudo"},
    {"evaluate", "layers", "training", "views"},
    {"exchange", "saliency", "segment", "tag_errors"},
    {"demo", "doctor", "feature_store", "methods", "report", "review", "corrected"},
    {"localize", "told"},
    {"propagation", "references"},
    {"recipes"},
    {"plan"},
    {"stages"},
    {"run_tags"},
    {"need"},
    {"passport"},
    {"checks", "summary"},
    {"pipeline", "prediction"},
    {"compare", "export", "ray_engine"},
    {"corrections", "deploy", "ray_labelling"},
    {"cvat", "serve"},
    {"cli"},
    {"__main__"},
]
# Known exceptions, each with its reason.
ALLOWED = {
    ("data", "evaluate"),  # the download of a public data set turns its trimaps into truth masks, read as any truth
}


def module_of(path: Path, root: Path) -> str:
    """``tag2mask.data.images``; a package's ``__init__`` is called as the package."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, wherever they stand, but for what is there for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from executed(other)
        else:
            yield child
            yield from executed(child)


def imports(root: Path) -> dict[str, set[str]]:
    """Module to the modules of the same package that it imports, at the top or within a function."""
    paths = {module_of(path, root): path for path in root.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        found = graph[module] = set()
        for node in executed(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports name the package"
                names = [f"{node.module}.{alias.name}" for alias in node.names]  # a module, or something within one
                found |= {name if name in paths else str(node.module) for name in names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[module] = (found & paths.keys()) - {module}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that all reach each other (Tarjan's strongly connected components), of two and more."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            place = stack.index(node)
            if len(stack) - place > 1:
                found.append(sorted(stack[place:]))
            del stack[place:]

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def package(module: str) -> str:
    """The package of tag2mask, or the module beside them, that a module belongs to; empty: tag2mask itself."""
    return f"{module}..".split(".")[1]


def test_imports_go_one_way_between_packages() -> None:
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    wrong, used = [], set()
    for module, others in imports(SOURCE).items():
        own = package(module)
        for other in {package(name) for name in others} - {own, ""}:
            if own and level[other] >= level[own]:
                used.add((own, other))
                wrong += [] if (own, other) in ALLOWED else [f"{module} imports {other}"]
    assert not wrong, wrong
    assert used == ALLOWED, "an exception that nothing needs any more"


def test_every_package_has_a_level() -> None:
    packages = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert packages == set().union(*LEVELS)
    assert sum(map(len, LEVELS)) == len(packages)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not even within functions; what is imported for type checkers alone does not count."""
    assert circles(imports(SOURCE)) == []


def test_circles_are_noticed(tmp_path: Path) -> None:
    root = tmp_path / "small"
    for name, text in {
        "__init__": "",
        "a": "from small import b\n",
        "b": "def later():\n    from small.inner.c import thing\n",
        "inner/__init__": "",
        "inner/c": "import small.a\n",
        "d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from small import e\n",
        "e": "from small import d\n",
        "f": "from small.inner import c, other\n",
    }.items():
        (root / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(text)
    graph = imports(root)
    assert graph["small.f"] == {"small.inner", "small.inner.c"} and graph["small.d"] == set()
    assert circles(graph) == [["small.a", "small.b", "small.inner.c"]]


def test_only_evaluate_opens_truth() -> None:
    """`mask_path` is carried by the readers of data sets, opened by evaluate alone."""
    readers = {}
    for path in FILES:
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
    assert openers == {"evaluate/truth.py"}, readers


def test_corrected_masks_reach_no_stage() -> None:
    """What reads them is used by what takes them in and measures, and by commands."""
    graph = imports(SOURCE)
    users = {
        package(module)
        for module, others in graph.items()
        if any(package(other) in ("exchange", "corrections") for other in others)
    }
    assert users == {"exchange", "export", "corrections", "cvat", "cli"}
    where = {module for module, others in graph.items() if {"tag2mask.corrected", "tag2mask.told"} & others}
    assert {package(module) for module in where} == {"corrections", "pipeline", "told"}, "where they lie is known here"
    teaches = {module for module, others in graph.items() if "tag2mask.stages.taught" in others}
    assert teaches == {"tag2mask.stages.segmenter", "tag2mask.stages.scores"}, "no stage of the maps may see one"


def test_training_code_cannot_name_truth() -> None:
    parts = ("training", "localize.py", "pseudo", "feature_store.py", "views.py", "references.py", "propagation",
             "layers", "segment", "refine", "methods", "backbones", "data/batches.py", "data/training",
             "data/augment.py")  # fmt: skip
    truth = ("mask_path", "all_background", "has_truth", "tag2mask.evaluate", "import evaluate", "read_truth")
    for part in parts:
        place = SOURCE / part
        paths = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        assert paths, part
        for path in paths:
            text = path.read_text(encoding="utf-8")
            for word in truth:
                assert word not in text, f"{path}: {word}"
    for path in (SOURCE / "methods").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "mask" not in text.replace("masked_mean", "").replace("tag2mask", "").lower() or path.name == "check.py"


def test_nothing_is_pickled() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("pickle.load", "pickle.loads", "pickle.dump", "torch.save", "joblib.load"), path
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", path
                if called == "torch.load":
                    assert keywords.get("weights_only") == "True", path


def test_only_the_command_line_prints() -> None:
    """The library logs."""
    for path in FILES:
        if package(module_of(path, SOURCE)) in ("cli", "progress"):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not [ast.unparse(c) for c in calls if ast.unparse(c.func) in ("print", "console")], path


def test_nothing_is_asked_of_a_method_by_the_name_of_an_attribute() -> None:
    """A method declares its traits and keeps typed promises; the pipeline asks for nothing else of it."""
    things = ("method", "network", "options", "segmenter", "task", "settings.options", "s.options")
    for part in ("pipeline.py", "checks.py", "summary.py", "localize.py", "references.py", "training", "stages"):
        place = SOURCE / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
            asked = [c for c in calls if ast.unparse(c.func) in ("getattr", "hasattr", "vars")]
            assert not [ast.unparse(c) for c in asked if ast.unparse(c.args[0]) in things], path


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_answers_without_heavy_imports(arguments: list[str]) -> None:
    code = f"import sys; from tag2mask.cli import dispatch; dispatch({arguments}); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "timm", "numpy", "matplotlib", "tyro", "rich", "PIL"):
        assert f"'{heavy}'" not in out
