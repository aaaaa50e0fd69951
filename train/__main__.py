"""python -m train RECIPE.yaml ... [key=value ...]: the one training loop, for every objective.

Several recipes run one after the other, each taking what is set for all; asked to stop, none
follows. --dry-run prints what the run would need and cost, and trains nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from train.command import exit_code
from train.data.sources import open_source
from train.dry_run import dry_run
from train.loop.optimizer import rate
from train.loop.precision import resolve_precision
from train.loop.processes import build_accelerator
from train.loop.report import Report
from train.loop.state import TrainState, export, prepare, save
from train.loop.step import gradients, mean_over_processes, set_rate, update
from train.recipe import Recipe, load_recipe, scheduled

BAD_STEPS_ALLOWED = 10


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("words", nargs="+", metavar="RECIPE.yaml | key=value")
    parser.add_argument("--dry-run", action="store_true", help="sizes, costs and what is missing")
    arguments = parser.parse_intermixed_args(argv)
    return exit_code(partial(_run, arguments.words, arguments.dry_run))


def _run(words: list[str], dry: bool) -> None:
    for recipe in _recipes(words):
        if dry:
            dry_run(recipe)
        elif train(recipe) is None:
            break


def _recipes(words: list[str]) -> list[Recipe]:
    """Raises ValueError for recipes that are wrong, or that cannot follow one another."""
    overrides = [word for word in words if "=" in word]
    recipes = [load_recipe(word, overrides) for word in words if "=" not in word]
    recipes = [resolve_precision(recipe) for recipe in recipes]
    if not recipes:
        raise ValueError("name a recipe first; recipes are in train/recipes/")
    if len({recipe.run.out for recipe in recipes}) < len(recipes):
        raise ValueError("several recipes would write to one folder; leave out= to each of them")
    if len({recipe.compute.precision for recipe in recipes}) > 1:
        raise ValueError("recipes that follow one another need the same precision")
    if len(recipes) > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes train one recipe at a time")
    return recipes


def train(recipe: Recipe) -> Path | None:
    """Run or resume a recipe; returns the folder of the final weights, None if asked to stop.

    Every random choice is keyed to (seed, step, part of the step), so a resumed run repeats an
    unbroken one.

    Raises:
        ValueError: the recipe asks for what does not exist, or ten steps in a row were not finite.
        CheckpointError: a checkpoint could not be written.
    """
    recipe = resolve_precision(recipe)
    accelerator = build_accelerator(recipe)
    source = open_source(recipe, "train", accelerator.device)
    recipe = scheduled(recipe, source)
    validation = (
        open_source(recipe, "validation", accelerator.device) if recipe.run.grid_every else None
    )
    state, ddp_model, start = prepare(recipe, accelerator, source)
    objective, optimizers, ema, _ = state
    trainable = objective.trainable()
    report = Report(Path(recipe.run.out), recipe, start) if accelerator.is_main_process else None
    bar = tqdm(total=recipe.schedule.steps, initial=start, disable=report is None, smoothing=0.05)
    step, bad = start, 0

    with _Stop() as stop:
        while step < recipe.schedule.steps and not stop.agreed(accelerator):
            set_rate(recipe, optimizers, step)
            losses = gradients(recipe, accelerator, ddp_model, source, step)
            norm = float(accelerator.clip_grad_norm_(trainable.parameters(), recipe.optimizer.clip))
            finite = math.isfinite(norm)
            bad = 0 if finite else bad + 1
            if bad == BAD_STEPS_ALLOWED:
                raise ValueError(f"{bad} steps in a row were not finite; stopped after step {step}")
            update(optimizers, finite)
            if finite:
                ema.update(trainable, step)
            step += 1
            bar.update()

            if step % recipe.run.log_every == 0:
                losses = mean_over_processes(accelerator, losses)
                if report:
                    scalars = {"norm": norm, "rate": rate(recipe, step - 1), "skipped": not finite}
                    report.log(step, losses, scalars, bar)
            if report and validation and step % recipe.run.grid_every == 0:
                with ema.applied(trainable):
                    report.validate(step, objective, validation, accelerator.autocast)
            if finite and (step % recipe.run.save_every == 0 or step == recipe.schedule.steps):
                save(recipe, accelerator, step, state)

    final = _finish(recipe, accelerator, state, step)
    if final is None:
        bar.write(f"stopped after step {step} as asked; the same command resumes from here")
    if report:
        report.close()
    accelerator.end_training()
    return final


def _finish(recipe: Recipe, accelerator: Accelerator, state: TrainState, step: int) -> Path | None:
    """Export the weights of a run that has come to its end; else save what it resumes from."""
    if step < recipe.schedule.steps:
        save(recipe, accelerator, step, state)
        return None
    final = Path(recipe.run.out) / "final"
    export(recipe, accelerator, state, final)
    return final


class _Stop:
    """SIGTERM or Ctrl-C: finish the step on every process, save, leave."""

    def __enter__(self) -> _Stop:
        self.asked = False
        names = (signal.SIGTERM, signal.SIGINT)
        self.before = {name: signal.signal(name, self._ask) for name in names}
        return self

    def __exit__(self, *_) -> None:
        for name, handler in self.before.items():
            signal.signal(name, handler)

    def _ask(self, *_) -> None:
        self.asked = True

    def agreed(self, accelerator: Accelerator) -> bool:
        if accelerator.num_processes == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(flag) > 0)


if __name__ == "__main__":
    sys.exit(main())
