"""The state of a run: how it starts or resumes, is saved, and exported."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from scar.validation import to_dict
from train.loop import checkpoints, optimizer_state
from train.loop.checkpoints import CheckpointError
from train.loop.ema import EMA
from train.loop.optimizer import build_optimizers
from train.loop.processes import from_main, is_sharded
from train.loop.sharding import gathered
from train.objectives.build import build_objective
from train.protocols import Objective, Source
from train.recipe import Recipe, bounded_seed, changed_fields


class TrainState(NamedTuple):
    objective: Objective
    optimizers: list[torch.optim.Optimizer]
    ema: EMA
    data: dict  # the fingerprint of what is trained on


def prepare(
    recipe: Recipe, accelerator: Accelerator, source: Source
) -> tuple[TrainState, nn.Module, int]:
    """A fresh state or the newest checkpoint's, the wrapped module to call, and the steps done.

    Raises:
        ValueError: the recipe does not fit its preset, `out` holds another run, or the data are not
            those it was stopped with.
        CheckpointError: there are checkpoints and all of them are damaged, or the processes do not
            see the same ones.
    """
    torch.manual_seed(bounded_seed(recipe.run.seed))
    # FSDP shards contiguous tensors only; bitsandbytes makes weights so at its first step, and a
    # resumed run must not start in another layout: gradients are summed in the order of memory.
    contiguous = is_sharded(accelerator) or recipe.optimizer.name == "adamw8bit"
    layout = torch.contiguous_format if contiguous else torch.channels_last
    objective = build_objective(recipe).to(accelerator.device, memory_format=layout)
    data = source.fingerprint()
    tensors, step = _newest(recipe, accelerator, data)
    if step:
        objective.stateful().load_state_dict(tensors["model"])
    else:
        objective.start(source)
    optimizers = build_optimizers(recipe, objective.trainable())
    # FSDP gathers weights in `forward` of the objective, its root, and of each block; all other
    # methods, `encode_prefix` among them, run within these and need no registration.
    ddp_model, *optimizers = accelerator.prepare(objective, *optimizers)
    ema = EMA(objective.trainable(), recipe.optimizer.ema)
    if step:
        for i, optimizer in enumerate(optimizers):
            optimizer_state.restore(optimizer, tensors[f"optimizer{i}"])
        ema.load(tensors.get("ema", {}))
    return TrainState(objective, optimizers, ema, data), ddp_model, step


def save(recipe: Recipe, accelerator: Accelerator, step: int, state: TrainState) -> None:
    """Publish a checkpoint; every process must call this. Raises CheckpointError."""
    tensors = {"model": state.objective.stateful().state_dict(), "ema": state.ema.shadow}
    for i, optimizer in enumerate(state.optimizers):
        tensors[f"optimizer{i}"] = optimizer_state.flatten(optimizer)
    tensors = {stem: gathered(part) for stem, part in tensors.items()}
    if accelerator.is_main_process:
        metadata = {"recipe": to_dict(recipe), "data": state.data}
        checkpoints.save(
            Path(recipe.run.out) / "checkpoints", step, tensors, metadata, recipe.run.keep
        )
    accelerator.wait_for_everyone()


def export(recipe: Recipe, accelerator: Accelerator, state: TrainState, folder: Path) -> None:
    """Write the averaged weights for `scar.weights.checkpoint`; every process must call this."""
    accelerator.wait_for_everyone()  # the run is over once it is over for all
    objective = state.objective
    trainable = objective.trainable()
    with state.ema.applied(trainable):
        if not accelerator.is_fsdp2:
            if accelerator.is_main_process:
                objective.export(folder)
            return
        weights = gathered(trainable.state_dict())
    if accelerator.is_main_process:
        whole = build_objective(recipe)
        whole.trainable().load_state_dict(weights)
        whole.export(folder)


def _newest(
    recipe: Recipe, accelerator: Accelerator, data: dict
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """The tensors of the newest checkpoint and its step; nothing and 0 where there is none.

    The main process chooses and verifies it, and every process has to see the same one.
    """
    folder = Path(recipe.run.out) / "checkpoints"
    step = from_main(accelerator, partial(_step_to_resume, recipe, folder, data))
    path = checkpoints.path_of(folder, step or max(checkpoints.steps(folder), default=0))
    _same_everywhere(recipe, folder, step, checkpoints.identity(path))
    if not step:
        return {}, 0
    accelerator.print(f"resuming from {path.name}")
    return checkpoints.load(path)[0], step


def _step_to_resume(recipe: Recipe, folder: Path, data: dict) -> int:
    path = checkpoints.newest(folder)
    if path is None:
        return 0
    metadata = checkpoints.load_metadata(path)
    _same_run(recipe, metadata["recipe"])
    _same_data(recipe, metadata.get("data", data), data)
    return metadata["step"]


def _same_everywhere(recipe: Recipe, folder: Path, step: int, identity: str) -> None:
    """Raises CheckpointError or ValueError where nodes would train from, or to, different steps."""
    found = gather_object([(identity, recipe.schedule.steps)])
    other = [i for i, (there, _) in enumerate(found) if there != found[0][0]]
    if other:
        raise CheckpointError(
            f"process 0 goes on from step {step} of {folder}, and process {other[0]} has other "
            "checkpoints there, or none: out must be a folder that all nodes share, or be copied "
            "to each of them"
        )
    if len({steps for _, steps in found}) > 1:
        lengths = ", ".join(str(steps) for _, steps in found)
        raise ValueError(
            f"the processes would train for different numbers of steps ({lengths}): every node "
            "needs the same recipe and the same data"
        )


def _same_run(recipe: Recipe, before: dict) -> None:
    """Raises ValueError if a checkpoint is of a run that this recipe would not continue."""
    changed = changed_fields(recipe, before)
    if changed:
        raise ValueError(
            f"{recipe.run.out} holds a run with another {', '.join(changed)}; "
            "choose another out, or remove its checkpoints to start over"
        )


def _same_data(recipe: Recipe, before: dict, now: dict) -> None:
    """Raises ValueError if the order of examples would silently become another one."""
    if before == now:
        return
    was, are = (f"{d['samples']:,} samples in {d['files']:,} files" for d in (before, now))
    place = recipe.data.extracted or recipe.data.folder
    said = f"{place} has changed since the run was stopped, from {was} to {are}"
    if not recipe.data.allow_change:
        raise ValueError(
            f"{said}; put back what it was, or set data.allow_change=true to go on in a new order"
        )
    print(f"{said}; going on in a new order")
