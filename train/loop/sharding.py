"""Weights that FSDP spreads over processes, made whole and spread again; others pass unchanged."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor whole, on every process, each of which must call this."""
    return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}


def sharded_like(value: Tensor | int, other: Tensor) -> Tensor | int:
    """A whole tensor, spread as `other` of the same shape is; counts pass unchanged."""
    if not isinstance(other, DTensor) or getattr(value, "shape", None) != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
