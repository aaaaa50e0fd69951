"""Muon (Jordan et al. 2024) where bf16 is not fast: `torch.optim.Muon` orthogonalises in bf16
alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class MuonFP32(torch.optim.Muon):
    """`torch.optim.Muon` with "match_rms_adamw", orthogonalising in fp32.

    Same groups, options and state, so checkpoints of the two are interchangeable. On a CPU without
    AMX this takes half the time.
    """

    @torch.no_grad()
    def step(self, closure=None) -> None:
        if closure is not None:
            raise ValueError("MuonFP32 takes no closure")
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = weight.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = orthogonalised(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * lr * math.sqrt(max(weight.shape)))


def orthogonalised(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """U V^T of a matrix U S V^T (n, m), approximately, by the quintic Newton-Schulz iteration."""
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=eps)  # singular values of at most 1
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G^2
        x = torch.addmm(x, polynomial, x, beta=a)
    return x if wide is matrix else x.T
