"""Two processes train as one does, with weights copied (DDP)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from test_train import SMALL, TINY_MODEL, assert_close, edit_recipe, tokenizer_folder  # noqa: F401

from train.__main__ import train


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


def test_micro_batches_add_up_to_the_batch(tokenizer_folder, tmp_path):  # noqa: F811
    plain = ("batch_size=4", "drop_both=0", "drop_image=0", "drop_text=0", "foreground=0")
    train(edit_recipe(tokenizer_folder, tmp_path / "one", *plain))
    train(edit_recipe(tokenizer_folder, tmp_path / "parts", "accumulate=2", *plain))
    assert_close(tmp_path / "parts", tmp_path / "one", 1e-4)
