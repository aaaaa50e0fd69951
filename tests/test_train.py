"""The training loop: recipes, smoke runs, resume, damaged checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from scar.checkpoint import build_tokenizer, configure, load_tokenizer, save_tokenizer
from train import checkpoints
from train.__main__ import main, train
from train.average import Average
from train.optim import rate
from train.recipe import load_recipe

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
TINY_CODES = (
    "{codebook_size: 32, autoencoder: {channels: [32, 32], blocks: 1, latent: 16, patch: 4, "
    "attention: false}}"
)
TINY_MODEL = f"model={{backbone: {{layers: 1, heads: 2, width: 32}}, tokenizer: {TINY_CODES}}}"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(0)
    autoencoder = {"channels": [32, 32], "blocks": 1, "latent": 16}
    changes = {"tokenizer": {"codebook_size": 32, "autoencoder": autoencoder}}
    save_tokenizer(build_tokenizer(configure("toy-next-token", changes).tokenizer), folder)
    return folder


def edit_recipe(tokenizer_folder: Path, out: Path, *more: str):
    overrides = [*SMALL, TINY_MODEL, f"tokenizer={tokenizer_folder}", f"out={out}", *more]
    return load_recipe(RECIPES / "toy_edit.yaml", overrides)


def lines(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "examples_per_second"} for row in rows]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = load_recipe(path)
    assert recipe.about
    configure(recipe.preset, recipe.model)


def test_unknown_and_ill_typed_keys_are_named():
    path = RECIPES / "toy_edit.yaml"
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        load_recipe(path, ["learning_rat=1"])
    with pytest.raises(ValueError, match="steps must be int"):
        load_recipe(path, ["steps=many"])
    with pytest.raises(ValueError, match="not key=value"):
        load_recipe(path, ["steps"])
    with pytest.raises(ValueError, match="does not exist"):
        load_recipe("nowhere.yaml")
    assert load_recipe(path, ["learning_rate=1e-4"]).learning_rate == 1e-4
    assert main([str(path), "stepz=3"]) == 1


def test_tokenizer_smoke_writes_a_loadable_tokenizer(tmp_path):
    overrides = [*SMALL, f"model={{tokenizer: {TINY_CODES}}}", f"out={tmp_path}", "init=''"]
    recipe = load_recipe(RECIPES / "toy_tokenizer.yaml", overrides)
    final = train(recipe)
    load_tokenizer(configure(recipe.preset, recipe.model).tokenizer, final)
    assert {"pixel", "commitment", "perceptual"} <= lines(tmp_path)[-1].keys()


def test_a_resumed_run_repeats_an_unbroken_one_to_the_last_bit(tokenizer_folder, tmp_path):
    whole = edit_recipe(tokenizer_folder, tmp_path / "whole")
    train(whole)
    train(edit_recipe(tokenizer_folder, tmp_path / "broken"))
    # As if killed during step 4: only the checkpoint of step 2 is left.
    shutil.rmtree(tmp_path / "broken/checkpoints/step-00000004")
    shutil.rmtree(tmp_path / "broken/final")
    train(edit_recipe(tokenizer_folder, tmp_path / "broken"))
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    for name in ("model", "ema", "optimizer0"):
        files = [
            (tmp_path / run / f"checkpoints/step-00000004/{name}.safetensors").read_bytes()
            for run in ("whole", "broken")
        ]
        assert files[0] == files[1]


def test_another_run_in_the_same_folder_is_refused(tokenizer_folder, tmp_path):
    train(edit_recipe(tokenizer_folder, tmp_path, "steps=1"))
    with pytest.raises(ValueError, match="another seed"):
        train(edit_recipe(tokenizer_folder, tmp_path, "steps=2", "seed=1"))


def test_inference_weights_are_exported(tokenizer_folder, tmp_path):
    final = train(edit_recipe(tokenizer_folder, tmp_path, "steps=1"))
    assert (final / "config.json").is_file()
    keys = checkpoints.load_file(next(final.glob("model*.safetensors")))
    assert keys and not any(key.startswith("upsampler") for key in keys)


def test_damaged_checkpoints_are_skipped_by_name(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, {"model": {"w": torch.arange(4)}}, {}, keep=4)
    flipped = tmp_path / "step-00000004/model.safetensors"
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    (tmp_path / "step-00000003/trainer.json").unlink()
    (tmp_path / "step-00000002/MANIFEST.json").unlink()
    said = []
    assert checkpoints.newest(tmp_path, said.append).name == "step-00000001"
    assert "does not match its hash" in said[0]
    assert "trainer.json is missing" in said[1]
    assert "manifest" in said[2]
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(checkpoints.CheckpointError, match="every checkpoint"):
        checkpoints.newest(tmp_path, said.append)


def test_a_failed_save_leaves_the_last_good_one(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 1, {"model": {"w": torch.ones(2)}}, {}, keep=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(checkpoints.CheckpointError, match="No space left"):
        checkpoints.save(tmp_path, 2, {"model": {"w": torch.ones(2)}}, {}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.damage(tmp_path / "step-00000001") is None


def test_only_the_newest_are_kept(tmp_path):
    for step in range(5):
        checkpoints.save(tmp_path, step, {"model": {"w": torch.ones(1)}}, {}, keep=2)
    assert checkpoints.steps(tmp_path) == [3, 4]


def test_the_average_follows_the_weights_and_is_only_lent():
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = Average(module, 0.5)
    module.weight.data.fill_(1.0)
    average.update(module, step=1000)
    with average.applied(module):
        assert module.weight.item() == 0.5 and not module.training
    assert module.weight.item() == 1.0 and module.training


def test_rate_warms_up_and_decays():
    recipe = load_recipe(
        RECIPES / "toy_edit.yaml", ["steps=100", "warmup=10", "learning_rate=1.0", "decay=linear"]
    )
    assert rate(recipe, 0) == pytest.approx(0.1)
    assert rate(recipe, 9) == pytest.approx(1.0)
    assert rate(recipe, 55) == pytest.approx(0.5)
    assert rate(recipe, 99) < 0.02
