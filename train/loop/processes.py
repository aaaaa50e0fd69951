"""How the processes of a run share it: copies of everything (DDP), or shards (FSDP 2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from train.recipe import Recipe

T = TypeVar("T")

SHARDED = DistributedType.FSDP


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Raises ValueError where the processes do not fit the recipe."""
    fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ValueError("DeepSpeed is not supported; use train/configs/fsdp_8gpu.yaml")
    if fsdp and recipe.optimizer.name != "adamw":
        raise ValueError(f"FSDP shards what {recipe.optimizer.name} needs whole; use adamw")
    if fsdp and recipe.run.grid_every:
        raise ValueError("FSDP leaves no process whole weights to draw with; set grid_every=0")
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.compute.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        # Autocast decides what is computed in 16 bit, as everywhere, and not the sharding.
        fsdp_plugin=(
            FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())
            if fsdp
            else None
        ),
    )
    if fsdp and not is_sharded(accelerator):
        raise ValueError("FSDP shards over GPUs, and there are none; use ddp_8gpu.yaml")
    if recipe.compute.threads:
        torch.set_num_threads(recipe.compute.threads)
    parts = recipe.schedule.accumulate * accelerator.num_processes
    if recipe.schedule.batch_size % parts:
        raise ValueError(
            f"batch_size {recipe.schedule.batch_size} does not divide into "
            f"{accelerator.num_processes} processes x accumulate {recipe.schedule.accumulate}"
        )
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process has all of the weights, gradients and optimiser states."""
    return accelerator.distributed_type == SHARDED


def from_main(accelerator: Accelerator, compute: Callable[[], T]) -> T:
    """What `compute` gives on the main process, on every one, each of which must call this.

    What it raises there is raised everywhere, so that none is left waiting for the others.
    """
    value, error = None, None
    if accelerator.is_main_process:
        try:
            value = compute()
        except Exception as raised:
            error = raised
    value, error = broadcast_object_list([value, error])
    if error is not None:
        raise error
    return value
