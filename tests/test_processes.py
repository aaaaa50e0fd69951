"""Two processes train as one does, with weights copied (DDP) and spread (FSDP)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from test_train import SMALL, TINY_MODEL, assert_close, edit_recipe, tokenizer_folder  # noqa: F401

from train import checkpoints
from train.__main__ import train

# What accelerate starts FSDP on are GPUs: here it takes its two CPU processes for some.
ON_CPU = """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from train.__main__ import main

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
sys.exit(main(sys.argv[1:]))
"""


def launch(config: str, program: list[str], out: Path, tokenizer: Path, *more: str) -> str:
    """Two processes of train/configs/<config>; returns what they print."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--config_file", f"train/configs/{config}", "--main_process_port", "0", *program]
    overrides = [*SMALL, TINY_MODEL, f"tokenizer={tokenizer}", f"out={out}", *more]
    done = subprocess.run(
        [*command, "train/recipes/toy_edit.yaml", *overrides],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


DROPS = ("drop_text=0.3", "drop_image=0.3", "batch_size=4")


def test_two_processes_compute_what_one_does_and_resume(tokenizer_folder, tmp_path):  # noqa: F811
    train(edit_recipe(tokenizer_folder, tmp_path / "one", "accumulate=2", *DROPS))
    for steps in (2, 4):
        said = launch(
            "ddp_8gpu.yaml",
            ["-m", "train"],
            tmp_path / "two",
            tokenizer_folder,
            f"steps={steps}",
            *DROPS,
        )
    assert "resuming from step-00000002" in said
    assert_close(tmp_path / "two", tmp_path / "one", 1e-5)


def test_spread_weights_learn_the_same_and_resume(tokenizer_folder, tmp_path):  # noqa: F811
    program = tmp_path / "on_cpu.py"
    program.write_text(ON_CPU)
    train(edit_recipe(tokenizer_folder, tmp_path / "one", "accumulate=2", *DROPS))
    for steps in (2, 4):
        launch(
            "fsdp_8gpu.yaml",
            [str(program)],
            tmp_path / "two",
            tokenizer_folder,
            f"steps={steps}",
            *DROPS,
        )
    assert_close(tmp_path / "two", tmp_path / "one", 1e-5)
    ends = [
        checkpoints.load(tmp_path / run / "checkpoints/step-00000004")[0] for run in ("one", "two")
    ]
    for stem, tensors in ends[0].items():
        assert tensors.keys() == ends[1][stem].keys()
    assert next((tmp_path / "two/final").glob("model*")).stat().st_size


def test_micro_batches_add_up_to_the_batch(tokenizer_folder, tmp_path):  # noqa: F811
    plain = ("batch_size=4", "drop_both=0", "drop_image=0", "drop_text=0", "foreground=0")
    train(edit_recipe(tokenizer_folder, tmp_path / "one", *plain))
    train(edit_recipe(tokenizer_folder, tmp_path / "parts", "accumulate=2", *plain))
    assert_close(tmp_path / "parts", tmp_path / "one", 1e-4)
