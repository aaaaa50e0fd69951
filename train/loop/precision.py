"""What `precision: auto` stands for on this device."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from train.loop import checkpoints
from train.recipe import Recipe, change, sectioned

MEASURED = 0.25  # seconds per precision
GAIN = 0.9  # bf16 has to take less than this share of the time of fp32


def resolve_precision(recipe: Recipe) -> Recipe:
    """The recipe with `auto` replaced: what the checkpoints in `out` were trained with; else bf16
    on CUDA, and on a CPU whichever is faster in a measurement of half a second.

    Every process must call this; all get the same answer.
    """
    if recipe.compute.precision != "auto":
        return recipe
    precision, reason = _checkpointed(Path(recipe.run.out)), "as the checkpoints were trained"
    if precision is None:
        precision, reason = _of_device(recipe.model.backbone.width)
    if PartialState(cpu=not torch.cuda.is_available()).is_main_process:
        print(f"precision: {precision}, {reason}")
    return change(recipe, precision=precision)


def _checkpointed(out: Path) -> str | None:
    folder = out / "checkpoints"
    for step in reversed(checkpoints.steps(folder)):
        try:
            metadata = checkpoints.load_metadata(checkpoints.path_of(folder, step))
            return sectioned(metadata["recipe"])["compute"]["precision"]
        except (OSError, ValueError, KeyError):
            continue  # a damaged one; loading names it
    return None


@cache
def _of_device(width: int) -> tuple[str, str]:
    """A precision and why. Cached, so that recipes that follow one another agree."""
    if torch.cuda.is_available():
        return "bf16", "on CUDA"
    fp32, bf16 = (seconds_per_pass(width, bf16) for bf16 in (False, True))
    answer = [
        "bf16" if bf16 < GAIN * fp32 else "fp32",
        f"measured on this CPU: fp32 {fp32 * 1e3:.1f} ms, bf16 {bf16 * 1e3:.1f} ms",
    ]
    if PartialState(cpu=True).num_processes > 1:
        broadcast_object_list(answer)
    return answer[0], answer[1]


def seconds_per_pass(width: int, bf16: bool) -> float:
    """Fastest forward and backward pass of a feed-forward layer of this width over 4096 tokens."""
    layer = nn.Sequential(nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width))
    x = torch.ones(4096, width)
    fastest, end = float("inf"), time.perf_counter() + MEASURED
    while (start := time.perf_counter()) < end or fastest == float("inf"):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = layer(x).float().mean()
        loss.backward()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
