"""An exponential moving average of the weights: what is evaluated and exported."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from train.loop.sharding import sharded_like


class EMA:
    """Shadow copies of a module's floating-point state; decay 0 keeps none.

        shadow <- d shadow + (1 - d) weights,   d = min(decay, (1 + step) / (10 + step))

    The warm-up of d lets early averages forget the initial weights.
    """

    # torch.optim.swa_utils.AveragedModel copies its module, which FSDP 2 refuses, and counts
    # updates where this warm-up, and so a resumed run, depends on the step.

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
        """A context in which the module has the averaged weights and is in eval mode."""
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
