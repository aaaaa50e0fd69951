"""Recipes as data: sections, overrides, bases, and what older versions wrote."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest

from scar.errors import ConfigError
from scar.presets import configure
from scar.validation import from_dict, to_dict
from train.recipe import Recipe, change, changed_fields, load_recipe, make_recipe

REGION = Path("train/recipes/toy/region.yaml")

# As `train/recipes/toy/edit.yaml` was written once, and with the names that have changed.
FLAT = """
about: An old one.
objective: scar
preset: toy-next-set
tokenizer: runs/toy_decoder/final
init: assets/embedded/next-set
out: runs/old
data: toy
allow_data_change: true
size: 128
tasks: {edit: 0.6, t2i: 0.4}
steps: 4000
batch_size: 16
optimizer: muon
learning_rate: 1e-3
betas: [0.9, 0.99]
drop_both: 0.1
prefix_only: 0.5
precision: fp32
model: {backbone: {layers: 2, guidance_ramp: false}}
"""
SECTIONS = """
about: An old one.
objective: scar
preset: toy-next-set
model: {backbone: {layers: 2}, sampling: {guidance_ramp: false}}
weights: {tokenizer: runs/toy_decoder/final, init: assets/embedded/next-set}
run: {out: runs/old}
data: {kind: toy, allow_change: true, size: 128, tasks: {edit: 0.6, t2i: 0.4}}
schedule: {steps: 4000, batch_size: 16}
optimizer: {name: muon, learning_rate: 1.0e-3, betas: [0.9, 0.99]}
drop: {both: 0.1}
losses: {prefix_only: 0.5}
compute: {precision: fp32}
"""
# What a run of it wrote to recipe.json and to its checkpoints, in part.
WRITTEN = {
    "objective": "scar",
    "preset": "toy-next-set",
    "out": "elsewhere",
    "model": {"backbone": {"layers": 2, "guidance_ramp": False}},
    "data": "toy",
    "allow_data_change": False,
    "tasks": {"edit": 0.6, "t2i": 0.4},
    "steps": 10,
    "optimizer": "muon",
    "learning_rate": 1e-3,
    "betas": [0.9, 0.99],
    "drop_both": 0.1,
    "workers": 1,
    "a_field_of_the_past": 3,
}


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    path = tmp_path / "sections.yaml"
    path.write_text(SECTIONS)
    return load_recipe(path)


def test_recipes_of_before_load_without_a_warning(recipe, tmp_path):
    (tmp_path / "flat.yaml").write_text(FLAT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_recipe(tmp_path / "flat.yaml") == recipe


def test_what_a_run_of_before_wrote_is_the_same_run(recipe):
    assert changed_fields(recipe, json.loads(json.dumps(WRITTEN))) == []


@pytest.mark.parametrize(
    ("was", "name"),
    [
        ({"learning_rate": 1.0}, "optimizer.learning_rate"),
        ({"data": "imagenet"}, "data.kind"),
        ({"tasks": {"edit": 0.6, "t2i": 0.4, "c2i": 0.1}}, "data.tasks"),
        ({"model": {"backbone": {"layers": 3, "guidance_ramp": False}}}, "model.backbone.layers"),
    ],
)
def test_another_run_is_told_by_the_field_that_differs(recipe, was, name):
    assert changed_fields(recipe, WRITTEN | was) == [name]


def test_what_a_resumed_run_may_change_is_not_compared(recipe):
    other = change(recipe, steps=7, out="x", workers=9, compile=True, keep=5, about="Another.")
    assert other != recipe
    assert changed_fields(other, to_dict(recipe)) == []
    assert changed_fields(change(recipe, seed=5), to_dict(recipe)) == ["run.seed"]


def test_a_recipe_survives_json(recipe):
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_overrides_have_dots_or_lack_the_section():
    dotted = ["optimizer.learning_rate=2e-4", "schedule.steps=20", "data.tasks.t2i=0.5"]
    short = ["learning_rate=2e-4", "steps=20", "tasks.t2i=0.5"]
    recipe = load_recipe(REGION, [*dotted, "model.backbone.layers=2", "optimizer.name=adamw"])
    assert recipe == load_recipe(REGION, [*short, "model.backbone.layers=2", "optimizer=adamw"])
    assert recipe.optimizer.learning_rate == 2e-4 and recipe.schedule.steps == 20
    assert recipe.data.tasks == {"edit": 0.8, "t2i": 0.5, "c2i": 0.1}
    assert recipe.model.backbone.layers == 2


def test_a_recipe_has_the_fields_of_its_base_but_those_it_sets(tmp_path):
    (tmp_path / "base.yaml").write_text(SECTIONS)
    own = "base: base.yaml\ndata: {tasks: {edit: 1.0}}\nmodel: {backbone: {heads: 2}}\nsteps: 5\n"
    (tmp_path / "own.yaml").write_text(own)
    recipe = load_recipe(tmp_path / "own.yaml")
    assert recipe.data.tasks == {"edit": 1.0}
    assert (recipe.schedule.steps, recipe.schedule.batch_size) == (5, 16)
    assert (recipe.model.backbone.layers, recipe.model.backbone.heads) == (2, 2)


def test_the_model_is_whole():
    recipe = make_recipe({"objective": "scar", "preset": "toy-next-set", "out": ""})
    assert recipe.model == configure("toy-next-set")
    assert recipe.data.size == 128  # what its tokenizer reads


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stepz=3", "recipe: unknown key 'stepz'; did you mean 'steps'?"),
        ("optimizer.rate=1", "recipe: unknown key 'optimizer.rate'"),
        ("steps=true", "recipe: schedule.steps must be a whole number, 0 or more, not True"),
        ("batch_size=-4", "recipe: schedule.batch_size must be 1 or more, not -4"),
        ("optimizer=sgd", "recipe: optimizer.name must be adamw, adamw8bit or muon, not 'sgd'"),
        ("data=imagenett", "recipe: data.kind must be toy, imagenet, multigen or seed-edit, not"),
        ("flip=2", "recipe: data.flip must be between 0 and 1, not 2"),
        (
            "model.backbone.layers=six",
            "recipe: model.backbone.layers must be a whole number, 1 or more, not 'six'",
        ),
        ("drop.both=0.95", "recipe: drop: the drop shares must lie in [0, 1] together"),
        ("steps.more=1", "recipe: steps has no fields, so 'steps.more' cannot be set"),
        ("model=3", "recipe: model must be a mapping, not 3"),
        ("data.size=64", "recipe: data.size is 64, but the tokenizer of toy-next-token reads"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(override, sentence):
    with pytest.raises(ConfigError, match="^" + re.escape(sentence)):
        load_recipe(REGION, [override])


def test_every_field_is_read_somewhere():
    code = "".join(
        path.read_text() for path in Path("train").rglob("*.py") if path.name != "sections.py"
    )
    recipe = make_recipe({"objective": "scar", "preset": "toy-next-set", "out": ""})
    for section, fields in to_dict(recipe).items():
        for name in fields if isinstance(fields, dict) and section != "model" else ():
            owner = "options" if section == "tokenizer_training" else rf"({section}|self)"
            read = re.search(rf"\b{owner}\.{name}\b", code)
            assert read or re.search(rf'"{name}"', code), f"{section}.{name}"
