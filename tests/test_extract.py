"""Extraction: what is read back trains like what is seen on the fly."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from helpers.datasets import CPU
from helpers.recipes import RECIPES, tiny, tiny_toy
from safetensors.torch import load_file

from scar.validation import to_dict
from train.__main__ import train
from train.compare import compare
from train.data.extracted import shard_path
from train.data.sources import open_source
from train.extract import extract, main
from train.recipe import Recipe, change

pytestmark = pytest.mark.slow


def losses(recipe: Recipe) -> list[dict]:
    lines = (train(recipe).parent / "metrics.jsonl").read_text().splitlines()
    return [{k: json.loads(line)[k] for k in ("ce", "preservation", "alignment")} for line in lines]


@pytest.mark.parametrize("name", ["edit/seed_unsplash", "c2i/var_canny"])
def test_extracted_examples_train_as_images_do(name, root, tmp_path):
    recipe = tiny(RECIPES / f"{name}.yaml", root, out=str(tmp_path / "images"))
    folder = tmp_path / "extracted"
    extract(recipe, folder, shard=3, dtype="fp32")
    seen = losses(change(recipe, extracted=str(folder), out=str(tmp_path / "read")))
    for a, b in zip(losses(recipe), seen, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_control_maps_are_drawn_alike_in_every_precision(root, tmp_path):
    """Only the networks of the recipe compute in bf16: resizing has none on a CPU."""
    recipe = change(tiny_toy(RECIPES / "toy/multi.yaml", root), tasks={"t2i": 1.0})
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        extract(change(recipe, precision=precision), folder, examples=8, shard=8, dtype="fp32")
    full, half = (load_file(shard_path(tmp_path / p, 0))["source"] for p in ("fp32", "bf16"))
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_grids_are_drawn_in_bf16(root, tmp_path):
    """In a process of its own: accelerate keeps one precision a process."""
    recipe = tiny_toy(RECIPES / "toy/multi.yaml", root)
    words = [
        f"model={json.dumps(to_dict(recipe.model))}",
        f"tokenizer={recipe.weights.tokenizer}",
        f"out={tmp_path}",
    ]
    words += ["size=64", "steps=1", "batch_size=2", "grid_every=1", "tasks={t2i: 1.0}"]
    words += ["precision=bf16"]
    command = [sys.executable, "-m", "train", str(RECIPES / "toy/multi.yaml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "grid-00000001.png").is_file()


def test_the_throughput_of_both_is_printed_side_by_side(root, tmp_path, capsys):
    recipe = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    extract(recipe, tmp_path, passes=2, dtype="fp32")
    compare(recipe, tmp_path, steps=1)
    images, read, losses = capsys.readouterr().out.splitlines()
    speeds = [float(re.search(r"([\d.]+) examples/s", line)[1]) for line in (images, read)]
    assert min(speeds) > 0 and re.search(r", [\d.]+x$", read)
    assert float(re.search(r"differ by (\S+) at most", losses)[1]) <= 1e-5
    with pytest.raises(ValueError, match="--steps must be from 1 to"):
        compare(recipe, tmp_path, steps=1000)


def test_a_stopped_extraction_goes_on_and_later_epochs_are_shuffled(root, tmp_path):
    recipe = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    extract(recipe, tmp_path, shard=2, passes=2)
    kept = shard_path(tmp_path, 0).stat().st_mtime_ns
    shard_path(tmp_path, 2).unlink()
    reading = change(recipe, extracted=str(tmp_path))
    with pytest.raises(ValueError, match="lacks 1 of 4 shards"):
        open_source(reading, "train", CPU)
    extract(recipe, tmp_path, shard=2, passes=2)
    assert shard_path(tmp_path, 0).stat().st_mtime_ns == kept
    source = open_source(reading, "train", CPU)
    assert len(source) == 8
    first, later = source.batch(range(8)).tokens, source.batch(range(8, 16)).tokens
    assert not torch.equal(first, later)
    assert sorted(first.tolist()) == sorted(later.tolist())


def test_what_was_extracted_for_another_recipe_is_refused(root, tmp_path, capsys):
    recipe = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    extract(recipe, tmp_path)
    other = change(recipe, extracted=str(tmp_path), seed=1)
    with pytest.raises(ValueError, match="extracted with another seed"):
        open_source(other, "train", CPU)
    with pytest.raises(ValueError, match="extracted in another way"):
        extract(recipe, tmp_path, shard=7)
    with pytest.raises(ValueError, match="nothing was extracted"):
        open_source(change(recipe, extracted=str(tmp_path / "no")), "train", CPU)
    shard_path(tmp_path, 0).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged; remove it"):
        open_source(change(recipe, extracted=str(tmp_path)), "train", CPU).batch(range(2))
    assert main([str(RECIPES / "toy/tokenizer.yaml"), str(tmp_path / "toy")]) == 1
    assert "objective scar" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(root, tmp_path):
    recipe = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/inside cannot be written"):
        extract(recipe, tmp_path / "file/inside")
