"""How the processes of a run share it: copies (DDP), or pieces of what FSDP or ZeRO spread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
    is_deepspeed_available,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from train.recipe import Recipe

T = TypeVar("T")

SHARDED = {"FSDP": DistributedType.FSDP, "DEEPSPEED": DistributedType.DEEPSPEED}


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Raises ValueError where the processes do not fit the recipe."""
    asked = next((k for k in SHARDED if os.environ.get(f"ACCELERATE_USE_{k}") == "true"), None)
    if asked and recipe.optimizer != "adamw":
        raise ValueError(f"{asked} spreads what {recipe.optimizer} needs whole; use adamw")
    if asked == "FSDP" and recipe.grid_every:
        raise ValueError("FSDP leaves no process whole weights to draw with; set grid_every=0")
    plugins, mixed = {}, "bf16" if recipe.precision == "bf16" else "no"
    if asked == "FSDP":
        # Autocast decides what is computed in 16 bit, as everywhere, and not the sharding.
        plugins["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            mixed_precision_policy=MixedPrecisionPolicy()
        )
    elif asked == "DEEPSPEED":
        plugins["deepspeed_plugin"], mixed = _zero(recipe), "no"
    accelerator = Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available(), **plugins)
    if asked and accelerator.distributed_type != SHARDED[asked]:
        raise ValueError(f"{asked} spreads over GPUs, and there are none; use ddp_8gpu.yaml")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    parts = recipe.accumulate * accelerator.num_processes
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide into {accelerator.num_processes} "
            f"processes x accumulate {recipe.accumulate}"
        )
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process has all of the weights, gradients and moments."""
    return accelerator.distributed_type in SHARDED.values()


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


def _zero(recipe: Recipe) -> DeepSpeedPlugin:
    """ZeRO as the file of the launch asks for it, with everything else as the recipe has it."""
    if not is_deepspeed_available():
        raise ValueError("DeepSpeed is not installed: pip install deepspeed")
    plugin = DeepSpeedPlugin()
    config = plugin.deepspeed_config
    if plugin.zero_stage not in (1, 2) or plugin.offload_optimizer_device != "none":
        raise ValueError(
            "of DeepSpeed, ZeRO stages 1 and 2 without offloading are supported; "
            "train/configs/fsdp_8gpu.yaml spreads the weights too"
        )
    parts = recipe.accumulate * int(os.environ.get("WORLD_SIZE", "1"))
    config["train_micro_batch_size_per_gpu"] = max(recipe.batch_size // parts, 1)
    config["gradient_clipping"] = recipe.clip
    config["torch_autocast"] = {
        "enabled": recipe.precision == "bf16",
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],  # gradients travel in fp32, as everywhere
    }
    return plugin
