"""Tensors that FSDP shards over the processes, gathered and sharded again; others pass unchanged.

`torch.distributed.checkpoint.state_dict` does the same, but names optimiser states by weight:
checkpoints that were written by position could not be read any more.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor whole, on every process, each of which must call this."""
    return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}


def sharded_like(value: Tensor | int, other: Tensor) -> Tensor | int:
    """A whole tensor, sharded as `other` of the same shape is; step counts pass unchanged."""
    if not isinstance(other, DTensor) or getattr(value, "shape", None) != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
