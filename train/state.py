"""What a run changes as it goes, where it starts, and how it is saved."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from train import checkpoints, moments
from train.average import Average
from train.objectives import ScarObjective, TokenizerObjective, build_objective
from train.optim import build_optimizers
from train.processes import is_spread
from train.recipe import Recipe, bounded_seed
from train.sharding import gathered

# What a resumed run may change without becoming another run.
FREE_TO_CHANGE = {
    "about",
    "out",
    "steps",
    "workers",
    "fused",
    "gradient_checkpointing",
    "compile",
    "log_every",
    "save_every",
    "keep",
    "grid_every",
    "wandb",
    "threads",
}


class State(NamedTuple):
    objective: TokenizerObjective | ScarObjective
    optimizers: list[torch.optim.Optimizer]
    average: Average


def prepare(recipe: Recipe, accelerator: Accelerator, source) -> tuple[State, nn.Module, int]:
    """Fresh, or as the newest checkpoint has it; also the module to call, and the steps done.

    Raises:
        ValueError: the recipe does not fit its preset, or `out` holds another run.
        CheckpointError: there are checkpoints and all of them are damaged.
    """
    torch.manual_seed(bounded_seed(recipe.seed))
    # What is spread has to be contiguous.
    layout = torch.contiguous_format if is_spread(accelerator) else torch.channels_last
    objective = build_objective(recipe).to(accelerator.device, memory_format=layout)
    tensors, step = _newest(recipe)
    if step:
        objective.stateful().load_state_dict(tensors["model"])
    else:
        objective.start(source)
    optimizers = build_optimizers(recipe, objective.trainable())
    wrapped, *optimizers = accelerator.prepare(objective, *optimizers)
    average = Average(objective.trainable(), recipe.ema)
    if step:
        for i, optimizer in enumerate(optimizers):
            moments.restore(optimizer, tensors[f"optimizer{i}"])
        average.load(tensors.get("ema", {}))
    return State(objective, optimizers, average), wrapped, step


def save(recipe: Recipe, accelerator: Accelerator, step: int, state: State) -> None:
    """Publish a checkpoint; every process must call this. Raises CheckpointError."""
    tensors = {"model": state.objective.stateful().state_dict(), "ema": state.average.shadow}
    for i, optimizer in enumerate(state.optimizers):
        tensors[f"optimizer{i}"] = moments.flatten(optimizer)
    tensors = {stem: gathered(part) for stem, part in tensors.items()}
    if accelerator.is_main_process:
        facts = {"recipe": asdict(recipe)}
        checkpoints.save(Path(recipe.out) / "checkpoints", step, tensors, facts, recipe.keep)
    accelerator.wait_for_everyone()


def export(recipe: Recipe, accelerator: Accelerator, state: State, folder: Path) -> None:
    """Write the averaged weights for `scar.checkpoint`; every process must call this."""
    objective, _, average = state
    trainable = objective.trainable()
    with average.applied(trainable):
        if not accelerator.is_fsdp2:
            if accelerator.is_main_process:
                objective.export(folder)
            return
        weights = gathered(trainable.state_dict())
    if accelerator.is_main_process:
        whole = build_objective(recipe)
        whole.trainable().load_state_dict(weights)
        whole.export(folder)


def _newest(recipe: Recipe) -> tuple[dict[str, dict[str, Tensor]], int]:
    """The tensors of the newest checkpoint and its step; nothing and 0 where there is none."""
    path = checkpoints.newest(Path(recipe.out) / "checkpoints")
    if path is None:
        return {}, 0
    tensors, facts = checkpoints.load(path)
    _same_run(recipe, facts["recipe"])
    print(f"resuming from {path.name}")
    return tensors, facts["step"]


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
