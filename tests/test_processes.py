"""Two processes train as one does, with weights copied (DDP) or sharded (FSDP)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import (
    SMALL,
    TINY_CODES,
    TINY_MODEL,
    assert_close,
    edit_recipe,
)

from train.__main__ import train
from train.loop import checkpoints, processes
from train.recipe import load_recipe

pytestmark = pytest.mark.slow


def launch(config: str, recipe: str, out: Path, *overrides: str, program=("-m", "train")) -> str:
    """Train in two processes of train/configs/<config>; returns what they print."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--config_file", f"train/configs/{config}", "--main_process_port", "0"]
    command += [*program, f"train/recipes/{recipe}.yaml", *SMALL, f"out={out}", *overrides]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


OWN_OUT = """
import os, sys
from train.__main__ import main
out = next(word for word in sys.argv if word.startswith("out="))
sys.exit(main([*sys.argv[1:], f"{out}/{os.environ['RANK']}"]))
"""  # each process has a disk of its own, as nodes do


def test_nodes_resume_from_one_step_or_not_at_all(tokenizer_folder, tmp_path):
    program, nodes = tmp_path / "own_out.py", tmp_path / "nodes"
    program.write_text(OWN_OUT)
    fields = ("batch_size=4", "steps=2")
    train(edit_recipe(tokenizer_folder, nodes / "0", "accumulate=2", *fields))
    shutil.rmtree(nodes / "0/final")
    again = (TINY_MODEL, f"tokenizer={tokenizer_folder}", "accumulate=2", "batch_size=4", "steps=4")

    def resume() -> str:
        return launch("ddp_8gpu.yaml", "toy/edit", nodes, *again, program=(str(program),))

    with pytest.raises(AssertionError, match="process 1 has other checkpoints there, or none"):
        resume()
    assert not (nodes / "0/final").exists() and not (nodes / "1/final").exists()
    shutil.copytree(nodes / "0/checkpoints", nodes / "1/checkpoints")
    assert resume().count("resuming from step-00000002") == 1
    assert checkpoints.steps(nodes / "0/checkpoints") == [2, 4]
    assert (nodes / "0/final/config.json").is_file() and not (nodes / "1/final").exists()


# Two examples in a micro-batch, of which one is a prefix alone: FSDP shards what both paths read.
DROPS = ("drop_text=0.3", "drop_image=0.3", "batch_size=8", "prefix_only=0.5")


@pytest.mark.parametrize("file", ["ddp_8gpu.yaml", "fsdp_8gpu.yaml"])
def test_two_processes_compute_what_one_does_and_resume(
    file,
    tokenizer_folder,
    tmp_path,
    monkeypatch,
):
    program = ("-m", "train")
    if file != "ddp_8gpu.yaml":
        program = ("tests/fsdp_on_cpu.py",)
        # FSDP shards contiguous tensors, and convolutions round by the layout of their weights.
        monkeypatch.setattr(torch, "channels_last", torch.contiguous_format)
    train(edit_recipe(tokenizer_folder, tmp_path / "one", "accumulate=4", *DROPS))
    fields = (TINY_MODEL, f"tokenizer={tokenizer_folder}", "accumulate=2", *DROPS)
    for steps in (2, 4):
        fewer = (*fields, f"steps={steps}")
        said = launch(file, "toy/edit", tmp_path / "two", *fewer, program=program)
    assert "resuming from step-00000002" in said
    assert_close(tmp_path / "two", tmp_path / "one", 1e-5)
    paths = [next((tmp_path / run / "final").glob("model*.safetensors")) for run in ("two", "one")]
    weights, expected = map(checkpoints.load_file, paths)
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(weights[key].float(), value.float(), rtol=1e-2, atol=1e-4), key


def test_the_codebook_follows_the_latents_of_all_processes(tmp_path):
    fields = (f"model={{tokenizer: {TINY_CODES}}}", "init=''", "batch_size=4", "patch_start=0")
    one = [*SMALL, *fields, "accumulate=2", f"out={tmp_path / 'one'}"]
    train(load_recipe("train/recipes/toy/tokenizer.yaml", one))
    launch("ddp_8gpu.yaml", "toy/tokenizer", tmp_path / "two", *fields)
    assert_close(tmp_path / "two", tmp_path / "one", 1e-5)
    both = [
        checkpoints.load(tmp_path / run / "checkpoints/step-00000004")[0]["model"]
        for run in ("one", "two")
    ]
    for key in ("tokenizer.codebook.weight", "codes.count", "codes.total"):
        assert torch.allclose(both[0][key], both[1][key], rtol=1e-5, atol=1e-7), key
    # Some codes restarted at the first step, onto the same latents, and no latent chose them since.
    assert torch.isclose(both[0]["codes.count"], torch.tensor(0.97**3)).any()


@pytest.mark.parametrize(
    "how, fields, message",
    [
        ("FSDP", ("optimizer=muon",), "shards what muon needs whole"),
        ("FSDP", ("optimizer=adamw8bit",), "shards what adamw8bit needs whole"),
        ("FSDP", ("grid_every=2",), "set grid_every=0"),
        ("DEEPSPEED", (), "use train/configs/fsdp_8gpu.yaml"),
    ],
)
def test_what_cannot_be_sharded_is_refused(how, fields, message, monkeypatch, tmp_path):
    monkeypatch.setenv(f"ACCELERATE_USE_{how}", "true")
    recipe = load_recipe("train/recipes/toy/edit.yaml", [*SMALL, f"out={tmp_path}", *fields])
    with pytest.raises(ValueError, match=message):
        processes.build_accelerator(recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_copied_in_silence_where_it_should_be_sharded(tmp_path):
    with pytest.raises(AssertionError, match="FSDP shards over GPUs, and there are none"):
        launch("fsdp_8gpu.yaml", "toy/edit", tmp_path)


def test_micro_batches_add_up_to_the_batch(tokenizer_folder, tmp_path):
    plain = ("batch_size=4", "drop_both=0", "drop_image=0", "drop_text=0", "foreground=0")
    train(edit_recipe(tokenizer_folder, tmp_path / "one", *plain))
    train(edit_recipe(tokenizer_folder, tmp_path / "parts", "accumulate=2", *plain))
    assert_close(tmp_path / "parts", tmp_path / "one", 1e-4)
