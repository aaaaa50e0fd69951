"""An optimiser's state as one flat dict of tensors, sharded or not."""

from __future__ import annotations

import torch
from torch import Tensor

from train.loop.sharding import sharded_like

OptimizerState = dict[str, Tensor | int]  # of one weight: its moments and its count of steps


def flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """ "<position of the weight in the groups>.<name of the state>" -> tensor; FSDP's are still
    sharded."""
    return {
        f"{i}.{name}": torch.as_tensor(value)
        for i, weight in enumerate(_weights(optimizer))
        for name, value in optimizer.state.get(weight, {}).items()
    }


def restore(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """The inverse of `flatten`, from whole tensors; groups and rates stay those of the recipe.

    Raises:
        ValueError: the states are of weights of other shapes.
    """
    states: dict[int, OptimizerState] = {}
    for key, value in flat.items():
        index, name = key.split(".", 1)
        # bitsandbytes counts its steps with a plain integer, torch with a tensor of floats.
        is_count = value.ndim == 0 and not value.is_floating_point()
        states.setdefault(int(index), {})[name] = value.item() if is_count else value
    weights = _weights(optimizer)
    if any(i >= len(weights) or not _fits(state, weights[i]) for i, state in states.items()):
        raise ValueError(
            "the moments of this checkpoint are in another order: a version that grouped weights "
            "in another way wrote it; go on with that one, or choose another out"
        )
    sharded = {
        i: {name: sharded_like(value, weights[i]) for name, value in state.items()}
        for i, state in states.items()
    }
    optimizer.load_state_dict(
        {"state": sharded, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _fits(state: OptimizerState, weight: Tensor) -> bool:
    return any(torch.as_tensor(value).shape == weight.shape for value in state.values())


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
