"""An exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from train.loop.sharding import sharded_like


class EMA:
    """Shadow copies of a module's floating-point state; decay 0 keeps none.

    The decay warms up as (1 + step) / (10 + step), so that early averages forget the initial
    weights.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.shadow: dict[str, Tensor] = {}
        if decay > 0:
            self.shadow = {k: v.detach().clone() for k, v in _floats(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        state = _floats(module)
        if self.shadow:
            torch._foreach_lerp_(
                list(self.shadow.values()), [state[key].detach() for key in self.shadow], 1 - decay
            )

    def load(self, shadow: dict[str, Tensor]) -> None:
        for key, value in self.shadow.items():
            value.copy_(sharded_like(shadow[key], value))

    @contextmanager
    def applied(self, module: nn.Module):
        """Within the context the module has the averaged weights and is in eval mode."""
        kept = {k: v.detach().clone() for k, v in _floats(module).items()}
        training = module.training
        module.load_state_dict(module.state_dict() | self.shadow)
        module.eval()
        try:
            yield
        finally:
            module.load_state_dict(module.state_dict() | kept)
            module.train(training)


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
