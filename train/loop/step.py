"""One step of training: its gradients, and the update of the weights."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from train.loop.optimizer import rate
from train.protocols import Source
from train.recipe import Recipe, bounded_seed


def gradients(
    recipe: Recipe, accelerator: Accelerator, ddp_model: nn.Module, source: Source, step: int
) -> dict[str, Tensor]:
    """Accumulate the gradient of a step; returns this process's mean losses by name.

    A step is cut into `accumulate` x processes parts. What a part computes is keyed to (seed, step,
    part) alone, so two processes repeat what one does in twice as many micro-batches.

    ddp_model: the objective as accelerate has wrapped it, in DDP or FSDP.
    """
    losses: dict[str, Tensor] = {}
    for micro in range(recipe.schedule.accumulate):
        part = micro * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(part_seed(recipe.run.seed, step, part))
        raw = source.batch(_indices(recipe, step, part, accelerator.num_processes))
        last = micro == recipe.schedule.accumulate - 1
        accelerator.sync_gradients = last
        with nullcontext() if last else accelerator.no_sync(ddp_model):
            with accelerator.autocast():
                terms = ddp_model(raw, step)
            accelerator.backward(sum(terms.values()) / recipe.schedule.accumulate)
        for name, term in terms.items():
            losses[name] = losses.get(name, 0) + term.detach() / recipe.schedule.accumulate
    return losses


def set_rate(recipe: Recipe, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step)


def update(optimizers: list[torch.optim.Optimizer], finite: bool) -> None:
    """Update the weights where the gradients are finite, and free the gradients."""
    for optimizer in optimizers:
        if finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def mean_over_processes(accelerator: Accelerator, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean losses of all processes, each of which must call this."""
    values = torch.stack([term.float() for term in losses.values()])
    return dict(zip(losses, accelerator.reduce(values, "mean"), strict=True))


def part_seed(seed: int, step: int, part: int) -> int:
    """What torch is seeded with for one part of a step; any integer is a recipe's seed."""
    return bounded_seed((seed * 1_000_003 + step) * 1_009 * 1_013 + part)


def _indices(recipe: Recipe, step: int, part: int, processes: int) -> range:
    """The examples of one part: a step reads batch_size consecutive ones."""
    size = recipe.schedule.batch_size // (recipe.schedule.accumulate * processes)
    first = step * recipe.schedule.batch_size + part * size
    return range(first, first + size)
