"""What an optimiser remembers of each weight, as one flat dict of tensors, spread or not."""

from __future__ import annotations

import torch
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
from torch import Tensor

from train.loop.sharding import sharded_like

Memory = dict[str, Tensor | int]  # of one weight: its moments, and how many steps it has seen


def flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Position of the weight in its groups and name of the slot -> tensor.

    FSDP's are still spread; ZeRO's are whole on every process, each of which must call this.
    """
    if isinstance(optimizer, DeepSpeedOptimizerWrapper):
        memories = _gather(optimizer.optimizer)
    else:
        memories = [optimizer.state.get(p, {}) for p in _weights(optimizer)]
    return {
        f"{i}.{slot}": torch.as_tensor(value)
        for i, memory in enumerate(memories)
        for slot, value in memory.items()
    }


def restore(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """The inverse of `flatten`, from whole tensors; groups and rates stay those of the recipe.

    Raises:
        ValueError: the moments are of weights of other shapes.
    """
    memories: dict[int, Memory] = {}
    for key, value in flat.items():
        index, slot = key.split(".", 1)
        # bitsandbytes counts its steps with a plain integer, torch with a tensor of floats.
        counts = value.ndim == 0 and not value.is_floating_point()
        memories.setdefault(int(index), {})[slot] = value.item() if counts else value
    if isinstance(optimizer, DeepSpeedOptimizerWrapper):
        _spread(optimizer.optimizer, memories)
        return
    weights = _weights(optimizer)
    if not all(i < len(weights) and _fits(weights[i], memory) for i, memory in memories.items()):
        raise ValueError(
            "the moments of this checkpoint are in another order: a version that grouped weights "
            "in another way wrote it; go on with that one, or choose another out"
        )
    state = {
        i: {slot: sharded_like(value, weights[i]) for slot, value in memory.items()}
        for i, memory in memories.items()
    }
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _fits(weight: Tensor, memory: Memory) -> bool:
    return any(torch.as_tensor(value).shape == weight.shape for value in memory.values())


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _gather(zero) -> list[Memory]:
    """ZeRO keeps one flat piece of a group's moments on each process."""
    memories = []
    for group, piece in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        kept = zero.optimizer.state.get(piece, {})
        for weight in group:
            memories.append({slot: _whole(weight, value) for slot, value in kept.items()})
    return memories


def _whole(weight: Tensor, kept: Tensor) -> Tensor:
    if kept.ndim == 0:
        return kept
    whole = torch.zeros_like(weight, dtype=kept.dtype)
    if place := weight._hp_mapping:
        _part(whole.view(-1), place.lp_fragment_address).copy_(
            _part(kept, place.hp_fragment_address)
        )
    torch.distributed.all_reduce(whole)
    return whole


def _spread(zero, memories: dict[int, Memory]) -> None:
    first = 0
    for group, piece in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        kept = zero.optimizer.state[piece]
        for index, weight in enumerate(group, first):
            for slot, value in memories.get(index, {}).items():
                if slot == "step":
                    kept[slot] = value
                    continue
                moments = kept.setdefault(slot, torch.zeros_like(piece))
                if place := weight._hp_mapping:
                    _part(moments, place.hp_fragment_address).copy_(
                        _part(value.reshape(-1), place.lp_fragment_address)
                    )
        first += len(group)


def _part(flat: Tensor, address) -> Tensor:
    return flat.narrow(0, address.start, address.numel)
