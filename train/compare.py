"""python -m train.compare RECIPE.yaml FOLDER: what `python -m train.extract` to FOLDER saves here.

The same steps (losses and gradients, the weights stay as they are) are computed from images, then
from what was extracted, on this machine and in one run. Prints examples per second of both, their
ratio, and by how much a loss differs at most.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from train.command import exit_code
from train.data.extracted import read_layout
from train.data.sources import open_source
from train.loop.precision import resolve_precision
from train.objectives.build import build_objective
from train.protocols import Objective, Source
from train.recipe import Recipe, bounded_seed, change, load_recipe


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.compare", description=__doc__)
    parser.add_argument("recipe", help="a YAML file, see train/recipes/")
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=8, help="of each, after one to warm up")
    arguments = parser.parse_intermixed_args(argv)

    def run() -> None:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        compare(recipe, arguments.folder, arguments.steps)

    return exit_code(run)


def compare(recipe: Recipe, folder: Path, steps: int) -> None:
    """Print the comparison.

    Raises:
        ValueError: `folder` holds fewer than `steps` + 1 batches, or was extracted for another
            recipe; or the recipe's data or tokenizer are missing.
    """
    recipe = resolve_precision(recipe)
    images = change(recipe, extracted="")
    read = change(recipe, extracted=str(folder))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(bounded_seed(recipe.run.seed))
    objective = build_objective(recipe).to(device, memory_format=torch.channels_last)
    sources = [open_source(each, "train", device) for each in (images, read)]
    stored = read_layout(folder).examples // recipe.schedule.batch_size
    if not 0 < steps < stored:
        raise ValueError(f"{folder} holds {stored} batches; --steps must be from 1 to {stored - 1}")
    (slow, losses), (fast, others) = (_run(recipe, objective, each, steps) for each in sources)
    pairs = [(a[key], b[key]) for a, b in zip(losses, others, strict=True) for key in a]
    worst = max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)
    print(
        f"from images   {slow:8.2f} examples/s\n"
        f"extracted     {fast:8.2f} examples/s, {fast / slow:.2f}x\n"
        f"losses differ by {worst:.1e} at most, relatively, over {steps + 1} steps on {device}"
    )


def _run(
    recipe: Recipe, objective: Objective, source: Source, steps: int
) -> tuple[float, list[dict[str, float]]]:
    """Examples per second, the first step left out; and the losses of every step by name."""
    size, bf16 = recipe.schedule.batch_size, recipe.compute.precision == "bf16"
    losses = []
    for step in range(steps + 1):
        if step == 1:
            start = time.perf_counter()
        torch.manual_seed(bounded_seed(recipe.run.seed + step))
        raw = source.batch(range(step * size, (step + 1) * size))
        with torch.autocast(raw.label.device.type, torch.bfloat16, bf16):
            terms = objective(raw, step)
        sum(terms.values()).backward()
        objective.zero_grad(set_to_none=True)
        losses.append({name: float(term.detach()) for name, term in terms.items()})
    return steps * size / (time.perf_counter() - start), losses


if __name__ == "__main__":
    sys.exit(main())
