"""Fine-tuning on few pairs: what it takes, what it trains, what of its start it does without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from helpers.recipes import RECIPES, TINY_ENCODERS, tiny

from train.__main__ import main, train
from train.loop import checkpoints
from train.objectives.build import build_objective
from train.recipe import Recipe, change, load_recipe

pytestmark = pytest.mark.slow

FINETUNE = RECIPES / "edit/finetune_24gb.yaml"


def variants_of(path: Path) -> list[tuple[list[str], float]]:
    """Of a recipe, as its comments give them: overrides, and GiB in all."""
    found, amount = {}, None
    for line in path.read_text().splitlines():
        if line.startswith("#   "):
            found.setdefault(amount, []).extend(line[4:].split())
        elif match := re.search(r"([\d.]+) GiB$", line):
            amount = float(match[1])
    return [(overrides, amount) for amount, overrides in found.items()]


@pytest.mark.parametrize("overrides, amount", [([], 12.8), *variants_of(FINETUNE)])
def test_a_dry_run_confirms_what_fine_tuning_takes(overrides, amount, capsys):
    assert main([str(FINETUNE), "--dry-run", *overrides]) == 0
    said = capsys.readouterr().out
    examples = 16 // load_recipe(FINETUNE, overrides).schedule.accumulate
    assert f"1 x {examples} examples: {amount} GiB" in said
    assert amount < 16  # of 24, with what a framework reserves
    assert "600 of 16 examples" in said
    frozen = "frozen       backbone" in said
    assert frozen == ("train_only=prefix" in overrides)


def test_fine_tuning_passes_over_500_pairs_about_20_times():
    recipe = load_recipe(FINETUNE)
    assert len(variants_of(FINETUNE)) == 3
    assert 15 < recipe.schedule.steps * recipe.schedule.batch_size / 500 < 25
    assert (
        recipe.run.save_every <= recipe.schedule.steps / 3
        and recipe.schedule.warmup <= recipe.schedule.steps / 10
    )


def learned(recipe: Recipe) -> dict[str, bool]:
    """Train it; whether each weight has moved from where `init` has it, or it started."""
    torch.manual_seed(recipe.run.seed)
    objective = build_objective(recipe)
    objective.start(None)
    before = objective.trainable().state_dict()
    train(recipe)
    path = checkpoints.newest(Path(recipe.run.out) / "checkpoints")
    after = checkpoints.load(path)[0]["model"]
    return {name: not torch.equal(value, after[name]) for name, value in before.items()}


@pytest.mark.parametrize("name", ["edit/finetune_24gb", "c2i/var_canny"])
def test_training_the_prefix_alone_leaves_the_backbone(name, root):  # noqa: F811
    path = RECIPES / f"{name}.yaml"
    fields = {"train_only": "prefix", "accumulate": 1, "ema": 0.9, "warmup": 0}
    recipe = tiny(path, root, out=str(root / "out" / f"{name}_prefix"), **fields)
    recipe = change(recipe, **{"model.losses.region": 1.0})
    moved = learned(recipe)
    backbone = {key for key, is_moved in moved.items() if is_moved and key.startswith("backbone.")}
    fresh = {"backbone.visual_position", "backbone.prefix_level"}
    assert backbone == (fresh if "var" in name else set())
    for part in ("compressor.conv", "conditioner.visual", "region.conv2", "upsampler.expand"):
        assert moved[f"{part}.weight"], part


def test_the_prefix_alone_needs_a_backbone_to_keep():
    for overrides in (["init=''"], ["objective=tokenizer"]):
        with pytest.raises(ValueError, match="train_only: prefix needs init"):
            load_recipe(RECIPES / "toy/edit.yaml", ["train_only=prefix", "init=x", *overrides])
    with pytest.raises(ValueError, match="train_only must be empty or prefix"):
        load_recipe(FINETUNE, ["train_only=head"])


def test_a_recipe_says_which_conditions_of_its_start_it_does_without(root):  # noqa: F811
    recipe = tiny(RECIPES / "c2i/llamagen_canny.yaml", root)
    condition = TINY_ENCODERS["condition"] | {"classes": 0}
    recipe = change(recipe, **{"model.condition": condition})
    with pytest.raises(ValueError, match=r"init_ignore: \[conditioner\.class_table\]"):
        build_objective(recipe).start(None)
    build_objective(change(recipe, init_ignore=["conditioner.class_table"])).start(None)
