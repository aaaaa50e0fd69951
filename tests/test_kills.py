"""SIGKILL at random moments: the run goes on as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

import pytest
from helpers.runs import edit_recipe, lines

import train
from train.loop import checkpoints
from train.recipe import Recipe

pytestmark = pytest.mark.slow

KILLS = 20
STEPS = 16
ROOT = str(Path(train.__file__).parent) + os.sep
# A fork server: the modules are loaded once, and a killed process costs the next one nothing.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "train.__main__",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.bert.modeling_bert",
        "transformers.models.t5.modeling_t5",  # the text encoder's imports
    ]
)


def run(recipe: Recipe, moment: int, calls) -> None:
    """Train until the `moment`-th call that train/ makes, of whatever it be, and die there.

    A step makes a few hundred calls, most of them in a save: of tensors to be written, of a file
    to be hashed or flushed, of the rename.
    """
    seen = 0

    def count(frame, event: str, _) -> None:
        nonlocal seen
        path = frame.f_code.co_filename
        if event in ("call", "c_call") and path.startswith(ROOT):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    from train.__main__ import train as run_recipe

    sys.setprofile(count)
    run_recipe(recipe)
    sys.setprofile(None)
    calls.value = seen


def child(recipe: Recipe, moment: int) -> tuple[int, int]:
    """(exit code, calls made in all) of a process that runs the recipe."""
    calls = PROCESSES.Value("l", 0)
    process = PROCESSES.Process(target=run, args=(recipe, moment, calls))
    process.start()
    process.join()
    return process.exitcode, calls.value


def test_twenty_kills_change_nothing(tokenizer_folder, tmp_path):
    every = (f"steps={STEPS}", "save_every=1", "drop_text=0.3")
    whole, broken = (edit_recipe(tokenizer_folder, tmp_path / n, *every) for n in ("one", "two"))
    code, calls = child(whole, moment=0)
    assert code == 0
    random, folder, unfinished = Random(0), tmp_path / "two/checkpoints", 0
    for _ in range(KILLS):
        code, _ = child(broken, random.randrange(1, 3 * calls // (2 * STEPS)))
        assert code == -signal.SIGKILL
        unfinished += len(list(folder.glob(".tmp-*")))
    assert unfinished  # some fell into a save
    assert child(broken, moment=0)[0] == 0
    assert [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")] == []
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    for name in ("model", "ema", "optimizer0"):
        file = f"checkpoints/step-{STEPS:08d}/{name}.safetensors"
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


def test_sigterm_saves_and_leaves_with_zero(tokenizer_folder, tmp_path):
    recipe = edit_recipe(tokenizer_folder, tmp_path, "steps=100000", "save_every=100000")
    calls = PROCESSES.Value("l", 0)
    process = PROCESSES.Process(target=run, args=(recipe, 0, calls))
    process.start()
    while not (tmp_path / "metrics.jsonl").is_file() or not lines(tmp_path):
        time.sleep(0.1)
        assert process.is_alive()
    process.terminate()
    process.join(60)
    assert process.exitcode == 0
    [step] = checkpoints.steps(tmp_path / "checkpoints")
    assert lines(tmp_path)[-1]["step"] == step
