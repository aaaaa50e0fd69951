"""The training loop: recipes, smoke runs, resume, damaged checkpoints."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.runs import RECIPES, SMALL, TINY_CODES, assert_close, edit_recipe, lines

from scar.presets import configure
from scar.weights.checkpoint import build_model, load_tokenizer
from train.__main__ import main, train
from train.data.order import epoch_order
from train.loop import checkpoints, optimizer_state
from train.loop.ema import EMA
from train.loop.muon import orthogonalised
from train.loop.optimizer import build_optimizers, rate
from train.loop.report import Report
from train.loop.step import gradients, part_seed
from train.recipe import bounded_seed, change, load_recipe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=str)
def test_every_recipe_is_valid(path):
    assert load_recipe(path).about


def test_unknown_and_ill_typed_keys_are_named():
    path = RECIPES / "toy/edit.yaml"
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        load_recipe(path, ["learning_rat=1"])
    with pytest.raises(ValueError, match="schedule.steps must be a whole number, 0 or more"):
        load_recipe(path, ["steps=many"])
    with pytest.raises(ValueError, match="not key=value"):
        load_recipe(path, ["steps"])
    with pytest.raises(ValueError, match="does not exist"):
        load_recipe("nowhere.yaml")
    assert load_recipe(path, ["learning_rate=1e-4"]).optimizer.learning_rate == 1e-4
    assert main([str(path), "stepz=3"]) == 1


def test_tokenizer_smoke_writes_a_loadable_tokenizer(tmp_path):
    overrides = [*SMALL, f"model={{tokenizer: {TINY_CODES}}}", f"out={tmp_path}", "init=''"]
    recipe = load_recipe(RECIPES / "toy/tokenizer.yaml", overrides)
    final = train(recipe)
    load_tokenizer(recipe.model.tokenizer, final)
    assert {"pixel", "commitment", "perceptual"} <= lines(tmp_path)[-1].keys()


def test_recipes_run_one_after_the_other(tmp_path, capsys):
    """The second one starts from what the first one made."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    base = (RECIPES / "toy/tokenizer_next_set.yaml").resolve()
    first.write_text(f"base: {base}\nout: {tmp_path / 'first'}\npatch_start: 0\n")
    second.write_text(
        f"base: {first}\nout: {tmp_path / 'second'}\ninit: {tmp_path / 'first/final'}\n"
    )
    words = [str(first), *SMALL, str(second), f"model={{tokenizer: {TINY_CODES}}}"]
    assert main(words) == 0
    assert all(lines(tmp_path / run)[-1]["step"] == 4 for run in ("first", "second"))
    assert f"started from {tmp_path / 'first/final'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a recipe"),
        (["toy/edit", "toy/multi", "out=same"], "one folder"),
    ],
)
def test_recipes_that_cannot_follow_one_another_are_refused(words, message, capsys):
    paths = [word if "=" in word else str(RECIPES / f"{word}.yaml") for word in words]
    assert main(paths or ["steps=1"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "muon"])
def test_a_resumed_run_repeats_an_unbroken_one_to_the_last_bit(
    tokenizer_folder, tmp_path, optimizer
):
    field = f"optimizer={optimizer}"
    whole = edit_recipe(tokenizer_folder, tmp_path / "whole", field)
    train(whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    # As if killed during step 4: only the checkpoint of step 2 is left.
    shutil.rmtree(tmp_path / "broken/checkpoints/step-00000004")
    shutil.rmtree(tmp_path / "broken/final")
    train(edit_recipe(tokenizer_folder, tmp_path / "broken", field))
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    last = "checkpoints/step-00000004"
    names = [path.name for path in (tmp_path / "whole" / last).glob("*.safetensors")]
    assert ("optimizer1.safetensors" in names) == (optimizer == "muon")
    moments = checkpoints.load(tmp_path / "whole" / last)[0]["optimizer0"].values()
    assert any(m.dtype == torch.uint8 for m in moments) == (optimizer == "adamw8bit")
    for name in names:
        files = [(tmp_path / run / last / name).read_bytes() for run in ("whole", "broken")]
        assert files[0] == files[1]


@pytest.fixture(scope="module")
def plain(tokenizer_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    train(edit_recipe(tokenizer_folder, out))
    return out


@pytest.mark.parametrize(
    "fields",
    [
        ("fused=true",),
        ("gradient_checkpointing=true",),
        ("gradient_checkpointing=true", "compile=true"),
    ],
    ids=["fused", "checkpointing", "compiled"],
)
def test_memory_and_speed_fields_change_nothing_learned(fields, plain, tokenizer_folder, tmp_path):
    train(edit_recipe(tokenizer_folder, tmp_path, *fields))
    assert_close(tmp_path, plain, 1e-4)
    tensors, expected = (
        checkpoints.load(out / "checkpoints/step-00000004")[0] for out in (tmp_path, plain)
    )
    assert tensors["model"].keys() == expected["model"].keys()


def module_calls(recipe) -> int:
    """Of a run, forward passes of modules of any kind."""
    calls = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(None))
    train(recipe)
    hook.remove()
    return len(calls)


def test_memory_and_speed_fields_take_hold(tokenizer_folder, tmp_path):
    fused = load_recipe(RECIPES / "toy/edit.yaml", ["fused=true"])
    assert build_optimizers(fused, torch.nn.Linear(2, 2))[0].defaults["fused"]
    once, again = (
        module_calls(edit_recipe(tokenizer_folder, tmp_path / field, "steps=1", field))
        for field in ("gradient_checkpointing=false", "gradient_checkpointing=true")
    )
    assert again > once  # blocks run a second time on the way back


LLAMAGEN_DECAYS = """
compressor.conv  conditioner.visual  conditioner.text_in  conditioner.text_out
conditioner.class_table  upsampler.expand  upsampler.refine  region.conv1  region.conv2
backbone.tok_embeddings  backbone.layers.0.attention.wqkv  backbone.layers.0.attention.wo
backbone.layers.0.feed_forward.w1  backbone.layers.0.feed_forward.w2
backbone.layers.0.feed_forward.w3  backbone.output
"""
VAR_DECAYS = """
compressor.conv  conditioner.visual  conditioner.text_in  conditioner.text_out
conditioner.class_table  conditioner.pool  upsampler.expand  upsampler.refine
region.conv1  region.conv2
backbone.word_embed  backbone.blocks.0.attn.mat_qkv  backbone.blocks.0.attn.proj
backbone.blocks.0.ffn.fc1  backbone.blocks.0.ffn.fc2  backbone.blocks.0.ada_lin
backbone.head_nm.ada_lin  backbone.head
"""


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "preset, expected", [("toy-next-token", LLAMAGEN_DECAYS), ("toy-next-set", VAR_DECAYS)]
)
def test_only_weights_of_layers_decay(preset, expected, optimizer):
    """Of LlamaGen every matrix decays, of VAR all but positions, levels and head temperatures."""
    changes = {"backbone": {"layers": 1, "heads": 2, "width": 32}, "condition": {"classes": 3}}
    changes["losses"] = {"region": 1.0}
    model = build_model(configure(preset, changes), for_training=True)
    recipe = load_recipe(RECIPES / "toy/edit.yaml", [f"optimizer={optimizer}"])
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, others = set(), set()
    for group in (g for o in build_optimizers(recipe, model) for g in o.param_groups):
        assert group["weight_decay"] in (0, recipe.optimizer.weight_decay)
        (decayed if group["weight_decay"] else others).update(names[id(p)] for p in group["params"])
    assert decayed == {f"{layer}.weight" for layer in expected.split()}
    assert others == {*names.values()} - decayed
    assert {"conditioner.null_visual", "conditioner.null_text"} < others


def test_muon_moves_hidden_matrices_and_adamw_the_rest():
    module = torch.nn.ModuleDict(
        {
            "table": torch.nn.Embedding(4, 8),
            "hidden": torch.nn.Linear(8, 8),
            "output": torch.nn.Linear(8, 4, bias=False),
        }
    )
    recipe = load_recipe(RECIPES / "toy/edit.yaml", ["optimizer=muon"])
    adamw, muon = build_optimizers(recipe, module)
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(8, 8)]
    decayed, others = adamw.param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 8), (4, 8)]
    assert [p.shape for p in others["params"]] == [(8,)] and others["weight_decay"] == 0


def test_muon_in_fp32_does_what_torch_does_in_bf16():
    torch.manual_seed(0)
    shapes, options = [(48, 16), (16, 16), (16, 48)], ["optimizer=muon", "weight_decay=0.5"]
    start = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(5)]
    ends, moments_after = {}, {}
    for precision in ("fp32", "bf16"):
        module = torch.nn.ModuleList(torch.nn.Linear(*w.T.shape, bias=False) for w in start)
        for layer, weight in zip(module, start, strict=True):
            layer.weight.data.copy_(weight)
        recipe = load_recipe(RECIPES / "toy/edit.yaml", [*options, f"precision={precision}"])
        muon = build_optimizers(recipe, module)[-1]
        for step in gradients:
            for layer, gradient in zip(module, step, strict=True):
                layer.weight.grad = gradient
            muon.step()
        ends[precision] = [layer.weight.detach() for layer in module]
        moments_after[precision] = optimizer_state.flatten(muon)
        assert (type(muon) is torch.optim.Muon) == (precision == "bf16")
    torch.testing.assert_close(moments_after["fp32"], moments_after["bf16"])
    for a, b, w in zip(ends["fp32"], ends["bf16"], start, strict=True):
        moved, other = a - w, b - w
        assert 0 < (moved - other).norm() < 0.02 * other.norm()


def test_muon_orthogonalises():
    torch.manual_seed(0)
    for shape in [(32, 8), (8, 8), (8, 32)]:
        matrix = torch.randn(shape)
        made = orthogonalised(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        sizes = u.T @ made @ v.T  # the same singular vectors, and values close to one
        assert (sizes - sizes.diag().diag()).abs().max() < 1e-3
        assert sizes.diag()[s > 0.1 * s[0]].sub(1).abs().max() < 0.35


def test_8_bit_moments_need_their_package(monkeypatch):
    recipe = load_recipe(RECIPES / "toy/edit.yaml", ["optimizer=adamw8bit"])
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        build_optimizers(recipe, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="fused is for"):
        change(recipe, fused=True)


def test_8_bit_moments_take_a_quarter_of_the_memory():
    layer = torch.nn.Linear(64, 128, bias=False)  # smaller ones stay whole
    recipe = load_recipe(RECIPES / "toy/edit.yaml", ["optimizer=adamw8bit"])
    [optimizer] = build_optimizers(recipe, layer)
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    state = optimizer_state.flatten(optimizer)
    assert state["0.state1"].dtype == state["0.state2"].dtype == torch.uint8
    assert state["0.state1"].shape == layer.weight.shape


def poisoned(at: set[int]):
    """`gradients`, not a number at some steps."""

    def compute(recipe, accelerator, ddp_model, source, step):
        losses = gradients(recipe, accelerator, ddp_model, source, step)
        if step in at:
            next(p for p in ddp_model.parameters() if p.grad is not None).grad.fill_(float("nan"))
        return losses

    return compute


def test_a_step_that_is_not_finite_is_skipped_counted_and_not_saved(
    tokenizer_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("train.__main__.gradients", poisoned({1}))
    train(edit_recipe(tokenizer_folder, tmp_path, "steps=3", "save_every=1", "keep=4"))
    assert [row["skipped"] for row in lines(tmp_path)] == [0, 1, 0]
    assert checkpoints.steps(tmp_path / "checkpoints") == [1, 3]
    tensors, _ = checkpoints.load(tmp_path / "checkpoints/step-00000003")
    assert all(value.isfinite().all() for state in tensors.values() for value in state.values())


def test_ten_such_steps_in_a_row_stop_the_run(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("train.__main__.gradients", poisoned(set(range(1, 30))))
    with pytest.raises(ValueError, match="10 steps in a row were not finite"):
        train(edit_recipe(tokenizer_folder, tmp_path, "steps=30", "save_every=1"))
    assert checkpoints.steps(tmp_path / "checkpoints") == [1]


def test_what_a_kill_left_unfinished_is_cut_from_the_metrics(tmp_path):
    recipe = load_recipe(RECIPES / "toy/edit.yaml")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    Report(tmp_path, recipe, 2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_wandb_hears_what_tensorboard_hears(tokenizer_folder, tmp_path, monkeypatch):
    heard = {}
    run = SimpleNamespace(
        log=lambda values, step: heard.setdefault(step, {}).update(values),
        finish=lambda: heard.update(finished=True),
    )
    package = SimpleNamespace(init=lambda **options: heard.update(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", package)
    recipe = edit_recipe(tokenizer_folder, tmp_path, "wandb=scar", "steps=1")
    train(recipe)
    assert heard["project"] == "scar" and heard["finished"]
    assert heard[1]["train/loss"] == lines(tmp_path)[0]["loss"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        Report(tmp_path, recipe, 1)


def test_another_run_in_the_same_folder_is_refused(tokenizer_folder, tmp_path):
    train(edit_recipe(tokenizer_folder, tmp_path, "steps=1"))
    with pytest.raises(ValueError, match="another run.seed"):
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


def test_moments_of_other_weights_are_refused():
    recipe = load_recipe(RECIPES / "toy/edit.yaml")
    module = torch.nn.Linear(2, 3)
    [optimizer] = build_optimizers(recipe, module)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    kept = optimizer_state.flatten(optimizer)
    optimizer_state.restore(optimizer, kept)
    swapped = {f"{1 - int(key[0])}{key[1:]}": value for key, value in kept.items()}
    further = {f"2{key[1:]}": value for key, value in kept.items()}
    for other in (swapped, further):
        with pytest.raises(ValueError, match="moments .* in another order"):
            optimizer_state.restore(optimizer, other)


def test_the_processes_of_a_node_share_a_loaded_checkpoint(tmp_path):
    path = checkpoints.save(tmp_path, 1, {"model": {"w": torch.ones(1000)}}, {}, keep=2)
    [weight] = checkpoints.load(path)[0]["model"].values()
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line for line in maps if str(path) in line]
    assert any(
        int(first, 16) <= weight.data_ptr() < int(last, 16)
        for first, last in (line.split()[0].split("-") for line in mapped)
    )


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
    average = EMA(module, 0.5)
    module.weight.data.fill_(1.0)
    average.update(module, step=1000)
    with average.applied(module):
        assert module.weight.item() == 0.5 and not module.training
    assert module.weight.item() == 1.0 and module.training


def test_rate_warms_up_and_decays():
    recipe = load_recipe(
        RECIPES / "toy/edit.yaml", ["steps=100", "warmup=10", "learning_rate=1.0", "decay=linear"]
    )
    assert rate(recipe, 0) == pytest.approx(0.1)
    assert rate(recipe, 9) == pytest.approx(1.0)
    assert rate(recipe, 55) == pytest.approx(0.5)
    assert rate(recipe, 99) < 0.02


@pytest.mark.parametrize("seed", [-1, 20240607, 2**63, -(2**70)])
def test_any_integer_is_a_seed(seed):
    torch.manual_seed(bounded_seed(seed))
    torch.manual_seed(part_seed(seed, 10**6, 7))
    first, second = (epoch_order([range(50), range(50, 80)], seed, e).tolist() for e in (0, 1))
    assert first != second and sorted(first) == sorted(second) == list(range(80))
    assert bounded_seed(20240607) == 20240607
