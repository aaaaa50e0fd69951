"""python -m train RECIPE.yaml [key=value ...]: the one training loop, for every objective.

--dry-run prints what the run would need and cost, and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from train import checkpoints
from train.average import Average
from train.data.sources import open_source
from train.dry_run import dry_run
from train.objectives import build_objective
from train.optim import build_optimizers, rate
from train.recipe import Recipe, load_recipe, scheduled
from train.report import Report

BAD_STEPS_ALLOWED = 10
# What a resumed run may change without becoming another run.
FREE_TO_CHANGE = {
    "about",
    "out",
    "steps",
    "log_every",
    "save_every",
    "keep",
    "grid_every",
    "threads",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("recipe", help="a YAML file, see train/recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="sizes, costs and what is missing")
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        if arguments.dry_run:
            dry_run(recipe)
        else:
            train(recipe)
    except (ValueError, checkpoints.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(recipe: Recipe) -> Path:
    """Run or resume a recipe; returns the folder of the final weights.

    Every random choice is keyed to (seed, step, process), so a resumed run repeats an unbroken one.

    Raises:
        ValueError: the recipe asks for what does not exist, or ten steps in a row were not finite.
        CheckpointError: a checkpoint could not be written.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    precision = "bf16" if recipe.precision == "bf16" else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    out, main_process = Path(recipe.out), accelerator.is_main_process
    source = open_source(recipe, "train", accelerator.device)
    recipe = scheduled(recipe, source)
    torch.manual_seed(recipe.seed)
    objective = build_objective(recipe).to(accelerator.device, memory_format=torch.channels_last)
    optimizers = build_optimizers(recipe, objective.trainable())
    average = Average(objective.trainable(), recipe.ema)
    start = step = _resume(recipe, objective, optimizers, average)
    if start == 0:
        objective.start(source)
        average = Average(objective.trainable(), recipe.ema)
    wrapped = accelerator.prepare(objective)
    validation = (
        open_source(recipe, "validation", accelerator.device) if recipe.grid_every else None
    )
    report = Report(out, recipe, start) if main_process else None
    stop = _Stop()
    bad = 0

    bar = tqdm(total=recipe.steps, initial=start, disable=not main_process, smoothing=0.05)
    while step < recipe.steps and not stop.agreed(accelerator):
        losses: dict[str, Tensor] = {}
        for micro in range(recipe.accumulate):
            torch.manual_seed(_key(recipe, step, micro, accelerator.process_index))
            raw = source.batch(_indices(recipe, step, micro, accelerator))
            last = micro == recipe.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(wrapped):
                with accelerator.autocast():
                    terms = wrapped(raw, step)
                accelerator.backward(sum(terms.values()) / recipe.accumulate)
            for name, term in terms.items():
                losses[name] = losses.get(name, 0) + term.detach() / recipe.accumulate
        norm = accelerator.clip_grad_norm_(objective.trainable().parameters(), recipe.clip)

        finite = bool(torch.isfinite(norm))
        bad = 0 if finite else bad + 1
        if bad == BAD_STEPS_ALLOWED:
            raise ValueError(f"{bad} steps in a row were not finite; stopped after step {step}")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, step)
            if finite:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if finite:
            average.update(objective.trainable(), step)
        step += 1
        bar.update()

        if step % recipe.log_every == 0 and main_process:
            facts = {"norm": norm, "rate": rate(recipe, step - 1), "skipped": float(not finite)}
            report.log(step, losses, facts, bar)
        if validation and step % recipe.grid_every == 0 and main_process:
            with average.applied(objective.trainable()), accelerator.autocast():
                report.validate(step, objective, validation)
        if finite and (step % recipe.save_every == 0 or step == recipe.steps):
            _save(recipe, accelerator, step, objective, optimizers, average)

    if step < recipe.steps:
        _save(recipe, accelerator, step, objective, optimizers, average)
        bar.write(f"stopped after step {step} as asked; the same command goes on from here")
    elif main_process:
        with average.applied(objective.trainable()):
            objective.export(out / "final")
    if report:
        report.close()
    accelerator.end_training()
    return out / "final"


class _Stop:
    """SIGTERM or Ctrl-C: finish the step on every process, save, leave."""

    def __init__(self) -> None:
        self.asked = False
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True

    def agreed(self, accelerator: Accelerator) -> bool:
        if accelerator.num_processes == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(flag) > 0)


def _key(recipe: Recipe, step: int, micro: int, process: int) -> int:
    return ((recipe.seed * 1_000_003 + step) * 1_009 + micro) * 1_013 + process


def _indices(recipe: Recipe, step: int, micro: int, accelerator: Accelerator) -> range:
    """The examples of one micro-batch of one process: a step reads batch_size consecutive ones."""
    size = recipe.batch_size // (recipe.accumulate * accelerator.num_processes)
    first = (
        step * recipe.batch_size
        + (micro * accelerator.num_processes + accelerator.process_index) * size
    )
    return range(first, first + size)


def _resume(recipe: Recipe, objective, optimizers, average: Average) -> int:
    path = checkpoints.newest(Path(recipe.out) / "checkpoints")
    if path is None:
        return 0
    tensors, facts = checkpoints.load(path)
    _same_run(recipe, facts["recipe"])
    objective.stateful().load_state_dict(tensors["model"])
    for i, optimizer in enumerate(optimizers):
        checkpoints.restore_optimizer(optimizer, tensors[f"optimizer{i}"])
    average.load(tensors.get("ema", {}))
    print(f"resuming from {path.name}")
    return facts["step"]


def _same_run(recipe: Recipe, before: dict) -> None:
    """Raises ValueError if a checkpoint is of a run that this recipe would not continue."""
    now = json.loads(json.dumps(asdict(recipe)))
    changed = [
        key for key in now if now[key] != before.get(key, now[key]) and key not in FREE_TO_CHANGE
    ]
    if changed:
        raise ValueError(
            f"{recipe.out} holds a run with another {', '.join(changed)}; "
            "choose another out, or remove its checkpoints to start over"
        )


def _save(
    recipe: Recipe, accelerator: Accelerator, step: int, objective, optimizers, average: Average
) -> None:
    if accelerator.is_main_process:
        tensors = {"model": objective.stateful().state_dict(), "ema": average.shadow}
        for i, optimizer in enumerate(optimizers):
            tensors[f"optimizer{i}"] = checkpoints.flatten_optimizer(optimizer)
        facts = {"recipe": asdict(recipe)}
        checkpoints.save(Path(recipe.out) / "checkpoints", step, tensors, facts, recipe.keep)
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    sys.exit(main())
