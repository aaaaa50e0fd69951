"""Drawing tokens: small pure functions, and the one decode loop that serves both paradigms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.conditioning import Prefix
from scar.config import Sampling


class SamplingError(RuntimeError):
    """The model gave logits that are not finite."""


@torch.inference_mode()
def decode(
    backbone: nn.Module,
    prefix: Prefix,
    tokenizer: nn.Module,
    sampling: Sampling,
    generator: torch.Generator,
    forced: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Tensor]:
    """Guide, draw, write, step: yields the tokens so far (B, n) after every set.

    Args:
        prefix: B rows, or 2 B under guidance (conditional rows first).
        forced: (tokens (B, N), where (B, N) bool): tokens that are given rather than drawn.
    """
    cache = backbone.cache(prefix)
    guided = sampling.guidance != 1
    hidden = backbone.prefill(prefix, cache)
    tokens, sizes = None, backbone.set_sizes
    for index, size in enumerate(sizes):
        logits = backbone.logits(hidden, prefix).float()  # (B or 2 B, size, V)
        if guided:
            logits = guide(
                logits, guidance_at(sampling, index, len(sizes), backbone.config.guidance_ramp)
            )
        drawn = draw(keep_likely(logits, sampling), sampling.temperature, generator)
        if forced is not None:
            begin = sum(sizes[:index])
            given, where = (part[:, begin : begin + size] for part in forced)
            drawn = torch.where(where, given, drawn)
        tokens = drawn if tokens is None else torch.cat([tokens, drawn], dim=1)
        yield tokens
        if index + 1 < len(sizes):
            inputs = tokenizer.next_input(tokens)
            inputs = torch.cat([inputs, inputs]) if guided else inputs
            hidden = backbone.step(inputs, index + 1, prefix, cache)


def guidance_at(sampling: Sampling, index: int, count: int, ramp: bool) -> float:
    """The scale of one set; under a ramp it grows linearly from 1 at the first set (VAR)."""
    return 1 + (sampling.guidance - 1) * index / (count - 1) if ramp else sampling.guidance


def guide(logits: Tensor, scale: float) -> Tensor:
    """u + s (c - u) over rows [c; u]: (2 B, n, V) -> (B, n, V)."""
    conditional, unconditional = logits.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


def keep_likely(logits: Tensor, sampling: Sampling) -> Tensor:
    """Everything outside the top k, and outside the smallest set of mass p, becomes -inf."""
    count = logits.shape[-1]
    if 0 < sampling.top_k < count:
        floor = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = (logits / (sampling.temperature or 1)).sort(dim=-1)
        tail = ordered.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        tail[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), -torch.inf)
    return logits


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(B, n, V) -> (B, n); temperature 0 is greedy.

    Raises:
        SamplingError: no token has a finite logit, or one is NaN.
    """
    best = logits.max(dim=-1).values
    if not bool(torch.isfinite(best).all()):
        raise SamplingError("the model gave values that are not finite; try other settings or fp32")
    if temperature == 0:
        return logits.argmax(dim=-1)
    p = F.softmax(logits / temperature, dim=-1)
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(logits.shape[:-1])
