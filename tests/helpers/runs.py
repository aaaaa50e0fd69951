"""Short runs of `toy/edit` with the tiny model, and what they log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.tiny import TINY
from train.recipe import Recipe, load_recipe

RECIPES = Path("train/recipes")
SMALL = [
    "size=128",
    "objects=8",
    "steps=4",
    "batch_size=2",
    "save_every=2",
    "grid_every=0",
    "log_every=1",
    "precision=fp32",
    "threads=1",
]
TINY_CODES = json.dumps(TINY["tokenizer"])
TINY_MODEL = f"model={json.dumps(TINY)}"


def edit_recipe(tokenizer_folder: Path, out: Path, *more: str) -> Recipe:
    overrides = [*SMALL, TINY_MODEL, f"tokenizer={tokenizer_folder}", f"out={out}", *more]
    return load_recipe(RECIPES / "toy/edit.yaml", overrides)


def lines(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = ("examples_per_second", "tokens_per_second", "memory_gb")
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def assert_close(out: Path, expected: Path, tolerance: float) -> None:
    """Every number logged, to a relative tolerance."""
    for row, other in zip(lines(out), lines(expected), strict=True):
        assert row.pop("group") == other.pop("group")
        assert row == pytest.approx(other, rel=tolerance)
