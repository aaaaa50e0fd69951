"""The paper's recipes: what they say, and that each one trains at tiny width on miniature data."""

from __future__ import annotations

import json
from math import isfinite

import pytest
import torch
from helpers.datasets import CPU
from helpers.recipes import (
    RECIPES,
    name,
    tiny,
    tiny_toy,
)

from scar.config import Sampling
from scar.presets import configure
from train.__main__ import main, train
from train.data.sources import open_source
from train.dry_run import measure, memory_per_process
from train.objectives.build import build_objective
from train.recipe import change, load_recipe, scheduled

pytestmark = pytest.mark.slow

PAPER = sorted([*RECIPES.glob("c2i/*.yaml"), *RECIPES.glob("t2i/*.yaml")]) + [
    RECIPES / "edit/seed_unsplash.yaml"
]
TOY = sorted(RECIPES.glob("toy/*.yaml"))
EPOCHS = {"c2i_llamagen": 20, "c2i_var": 10, "t2i": 4, "edit_seed_unsplash": 2}


# The rivals' that share a backbone: ControlAR, CAR, EditAR.
SAMPLING = {
    "c2i_llamagen": Sampling(4.0, 1.0, 2000, 1.0, "joint"),
    "c2i_var": Sampling(4.0, 1.0, 900, 0.95, "text", guidance_ramp=True),
    "t2i": Sampling(4.0, 1.0, 2000, 1.0, "joint"),
    "edit_seed_unsplash": Sampling(3.0, 1.0, 1000, 1.0, "text"),
}


def test_the_table_is_complete():
    conditions = ("canny", "depth", "hed", "sketch")
    expected = {f"c2i_{b}_{c}" for b in ("llamagen", "var") for c in conditions}
    expected |= {f"t2i_{c}" for c in ("depth", "hed", "canny", "lineart")}
    assert {name(path) for path in PAPER} == expected | {"edit_seed_unsplash"}


@pytest.mark.parametrize("path", PAPER, ids=name)
def test_a_recipe_says_what_the_paper_says(path):
    recipe = load_recipe(path)
    config = recipe.model
    family = next(known for known in EPOCHS if name(path).startswith(known))
    assert recipe.schedule.epochs == EPOCHS[family]
    assert recipe.data.size == config.tokenizer.image_size == (256 if "c2i" in name(path) else 512)
    assert (config.losses.preservation, config.losses.alignment) == (1.0, 0.5)
    assert (
        recipe.optimizer.learning_rate,
        recipe.optimizer.weight_decay,
        recipe.optimizer.clip,
    ) == (1e-4, 0.05, 1.0)
    assert (recipe.optimizer.betas, recipe.schedule.decay, recipe.compute.precision) == (
        (0.9, 0.95),
        "constant",
        "bf16",
    )
    assert (config.encoder.name, config.compressor.factor) == ("dinov2-b", 2)
    assert recipe.data.detector == "real" or not recipe.data.control
    assert name(path).endswith(recipe.data.control)
    assert config.sampling == SAMPLING[family]
    assert recipe.run.out == f"runs/{name(path)}" and recipe.about


@pytest.mark.parametrize("path", PAPER, ids=name)
def test_every_recipe_gives_finite_losses_that_reach_every_weight(path, root):
    recipe = tiny(path, root)
    torch.manual_seed(0)
    objective = build_objective(recipe)
    source = open_source(recipe, "train", CPU)
    objective.start(source)
    losses = objective(source.batch(range(2)), 0)
    assert losses.keys() == {"ce", "preservation", "alignment"}
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    idle = {
        name
        for name, weight in objective.trainable().named_parameters()
        if weight.requires_grad and weight.grad is None
    }
    assert not idle


@pytest.mark.parametrize("path", [*PAPER, *TOY], ids=name)
def test_every_recipe_trains_and_resumes(path, root):
    recipe = (tiny_toy if path in TOY else tiny)(path, root)
    train(recipe)
    final = train(change(recipe, steps=3))
    assert list(final.glob("*.safetensors"))
    lines = [json.loads(line) for line in (final.parent / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(isfinite(line["loss"]) for line in lines)


def test_init_is_where_the_backbone_starts(root):
    recipe = tiny(RECIPES / "edit/seed_unsplash.yaml", root)
    torch.manual_seed(7)
    objective = build_objective(recipe)
    weight = objective.model.backbone.tok_embeddings.weight
    before = weight.detach().clone()
    objective.start(None)
    again = build_objective(recipe)
    again.start(None)
    assert not torch.equal(weight, before)
    assert torch.equal(weight, again.model.backbone.tok_embeddings.weight)


def test_epochs_become_steps(root):
    recipe = tiny(RECIPES / "t2i/depth.yaml", root, epochs=4.0)
    source = open_source(recipe, "train", CPU)
    assert scheduled(recipe, source).schedule.steps == 12  # 4 epochs of 6 samples by 2
    assert scheduled(change(recipe, epochs=0.0), source).schedule.steps == recipe.schedule.steps


def test_a_size_the_tokenizer_does_not_read_is_refused(root):
    with pytest.raises(ValueError, match="size is 128, but the tokenizer .* reads images of 64"):
        tiny(RECIPES / "edit/seed_unsplash.yaml", root, size=128)


def test_dry_run_says_what_a_run_needs(capsys):
    assert main([str(RECIPES / "t2i/hed.yaml"), "--dry-run", "folder=nowhere"]) == 0
    said = capsys.readouterr().out
    assert "256 visual + 120 text or class + 1024 image tokens - 1 = 1399" in said
    assert "uncompressed 2167" in said
    assert "4 epochs of data that are not there yet" in said
    assert "there is no data folder nowhere" in said
    assert "tokenizer: no weights in weights/llamagen-xl-t2i" in said


def test_counted_weights_are_those_that_are_published():
    xl = measure(configure("llamagen-xl-t2i"))
    text = xl.trained["conditioner"] - 768 * 1280 - 256 * 1280 - 120 * 2048
    assert xl.trained["backbone"] + text == pytest.approx(777.7e6, rel=1e-3)
    assert measure(configure("var-d20")).trained["backbone"] == pytest.approx(600.9e6, rel=0.01)


def test_memory_fields_lower_the_estimate():
    recipe = load_recipe(RECIPES / "t2i/depth.yaml")
    config = recipe.model
    size = measure(config)

    def estimate(examples=8, **fields) -> float:
        return memory_per_process(change(recipe, **fields), config, size, examples)

    assert estimate(gradient_checkpointing=True) < estimate() - 10e9
    assert estimate(optimizer="adamw8bit") < estimate(optimizer="muon") < estimate()
