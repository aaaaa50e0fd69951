"""`precision: auto`, and what is computed in it."""

from __future__ import annotations

import pytest
import torch

from scar.frozen import FrozenEncoders
from scar.prefix import DropMask
from scar.presets import configure
from scar.weights.checkpoint import build_tokenizer
from train.loop import checkpoints, precision
from train.loop.precision import resolve_precision, seconds_per_pass
from train.recipe import change, load_recipe


@pytest.fixture
def recipe(tmp_path):
    return load_recipe("train/recipes/toy/multi.yaml", [f"out={tmp_path}"])


@pytest.fixture(autouse=True)
def forget_the_measurement():
    precision._of_device.cache_clear()
    yield
    precision._of_device.cache_clear()


def on_a_cpu_where(monkeypatch, fp32: float, bf16: float) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "seconds_per_pass", lambda _, low: bf16 if low else fp32)


def test_auto_is_the_default_and_given_precisions_stay(recipe):
    assert recipe.compute.precision == "auto"
    for given in ("fp32", "bf16"):
        assert resolve_precision(change(recipe, precision=given)).compute.precision == given
    with pytest.raises(ValueError, match="precision must be auto, bf16 or fp32"):
        change(recipe, precision="fp16")


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_a_cpu_takes_the_faster_one_and_says_so(monkeypatch, recipe, capsys, bf16, chosen):
    on_a_cpu_where(monkeypatch, 1.0, bf16)
    assert resolve_precision(recipe).compute.precision == chosen
    assert f"precision: {chosen}, measured on this CPU" in capsys.readouterr().out


def test_cuda_takes_bf16(monkeypatch, recipe):
    on_a_cpu_where(monkeypatch, 1.0, 2.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision._of_device(256) == ("bf16", "on CUDA")


@pytest.mark.parametrize("trained", ["bf16", "fp32"])
def test_a_resumed_run_keeps_what_its_checkpoint_was_trained_with(
    monkeypatch, recipe, tmp_path, trained
):
    on_a_cpu_where(monkeypatch, 1.0, 2.0 if trained == "bf16" else 0.1)
    metadata = {"recipe": {"precision": trained}}
    checkpoints.save(tmp_path / "checkpoints", 1, {}, metadata, keep=2)
    checkpoints.save(tmp_path / "checkpoints", 2, {}, metadata, keep=2)
    (tmp_path / "checkpoints/step-00000002/trainer.json").write_text("{")
    assert resolve_precision(recipe).compute.precision == trained


def test_the_measurement_measures():
    assert 0 < seconds_per_pass(8, False) < 60 and 0 < seconds_per_pass(8, True) < 60


def test_a_bf16_run_on_a_cpu_sees_what_an_fp32_one_sees():
    """4% of them were seen to change when the tokenizer ran in bf16."""
    torch.manual_seed(0)
    for preset in ("toy-next-token", "toy-next-set"):
        changes = {"condition": {"text_encoder": "none"}}
        config = configure(preset, changes)
        frozen = FrozenEncoders(config, build_tokenizer(config.tokenizer), pretrained=False)
        images, none = torch.rand(2, 3, 128, 128) * 2 - 1, torch.zeros(2, dtype=torch.bool)
        label, weights = torch.zeros(2, dtype=torch.long), torch.ones(2, 1)
        given = (images, images, ["", ""], label, DropMask(none, none), weights, None)
        plain = frozen.batch(*given)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = frozen.batch(*given)
        assert torch.equal(mixed.tokens, plain.tokens)
        assert torch.equal(mixed.inputs, plain.inputs)
        assert torch.equal(mixed.source, plain.source)
