"""Imports point down: train and scar.studio -> preprocessors -> scar, and never in a circle."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("scar", "preprocessors", "train")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# What preprocessors may use of scar: it knows images and where weights lie, and no model.
SHARED = {f"scar.{name}" for name in ("assets", "errors", "images", "pixels", "png", "weights")}


def imports(name: str, deferred: bool = True) -> set[str]:
    """Every module a file imports; without `deferred`, those it imports as it is loaded."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if deferred else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & FILES.keys() or {node.module}
    return found


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def belongs(name: str) -> str:
    return "scar.studio" if within(name, "scar.studio") else name.split(".")[0]


BARRED = {
    "scar": ("preprocessors", "train", "scar.studio", "gradio", "accelerate"),
    "preprocessors": ("train", "scar.studio", "gradio", "accelerate"),
    "scar.studio": ("train", "accelerate"),
    "train": ("scar.studio", "gradio"),
}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    # `python -m scar` opens what it is asked for, the studio's benchmark too.
    found = imports(name, deferred=name != "scar.__main__")
    assert [module for module in found if within(module, *BARRED[belongs(name)])] == []
    if belongs(name) == "preprocessors":
        inner = {module for module in found if within(module, "scar")}
        assert [module for module in inner if not within(module, *SHARED)] == []
    text = FILES[name].read_text(encoding="utf-8")
    if "ArgumentParser(" in text and belongs(name) != "train":  # only what can be run has one
        assert name.endswith("__main__") or '__name__ == "__main__"' in text


@pytest.mark.parametrize("deferred", [False, True], ids=["loading", "ever"])
def test_no_files_import_each_other_in_a_circle(deferred):
    graph = {name: imports(name, deferred) & FILES.keys() for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


BRANCH = re.compile(
    r"(isinstance|issubclass|type|case) ?\(?.*(NextToken|NextSet|VQ)(Config|Transformer|Tokenizer)"
    r"|(NextToken|NextSet|VQ)Config: \w+[,}]"  # a table of them
    r"|[!=]= ?\"next-(token|set)\""
)


def test_the_paradigms_are_told_apart_in_one_table():
    """`scar.weights.checkpoint` looks both up; only the studio calls a step by its paradigm."""
    found = {name for name, path in FILES.items() if BRANCH.search(path.read_text("utf-8"))}
    assert {name for name in found if belongs(name) != "scar.studio"} == {"scar.weights.checkpoint"}


@pytest.mark.parametrize(
    "line",
    [
        "if isinstance(config.backbone, NextSetConfig):",
        "model = {NextSetConfig: 1}[type(backbone)]",
        "case NextSetConfig():",
        'if self.paradigm == "next-set":',
    ],
)
def test_the_search_for_branches_sees_them(line):
    assert BRANCH.search(line)
