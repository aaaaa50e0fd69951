"""Drawing tokens: small pure functions, and the one decode loop that serves both paradigms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.conditioning import Prefix
from scar.config import Sampling
from scar.layers import KVCache, Place


class SamplingError(RuntimeError):
    """The model gave logits that are not finite."""


class Drawing(NamedTuple):
    """What the n tokens of a set are drawn with."""

    noise: Tensor  # (B, n, V), exponentially distributed
    guidance: Tensor  # scalar
    given: Tensor  # (B, n) tokens
    fixed: Tensor  # (B, n) bool, where those stand


class Drawn(NamedTuple):
    tokens: Tensor  # (B, n)
    finite: Tensor  # scalar bool: the logits of every token have a finite maximum


class Steps:
    """How one set is decoded. `scar.compiled.Compiled` is the other way."""

    def __init__(self) -> None:
        self.first, self.following = first, following

    def cache(self, backbone: nn.Module, prefix: Prefix) -> KVCache:
        return backbone.cache(prefix)

    def places(self, count: int, device: torch.device) -> Sequence[Place]:
        return range(count)


@torch.inference_mode()
def decode(
    backbone: nn.Module,
    prefix: Prefix,
    tokenizer: nn.Module,
    sampling: Sampling,
    generator: torch.Generator,
    forced: tuple[Tensor, Tensor] | None = None,
    every: int = 1,
    steps: Steps | None = None,
) -> Iterator[Tensor]:
    """Guide, draw, write, step: yields the tokens so far (B, n).

    Args:
        prefix: B rows, or 2 B under guidance (conditional rows first).
        forced: (tokens (B, N), where (B, N) bool): tokens that are given rather than drawn.
        every: sets between two yields; the first and the last always come. Between them nothing
            waits for the device.
        steps: None decodes eagerly.

    Raises:
        SamplingError: since the last yield a token had no finite logit, or one that is NaN.
    """
    steps = steps or Steps()
    sizes, device = backbone.set_sizes, prefix.slots.device
    shape = (len(prefix.slots) // rows(sampling), sum(sizes))
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    fixed = torch.zeros(shape, dtype=torch.bool, device=device)
    if forced is not None:
        tokens.copy_(forced[0])
        fixed.copy_(forced[1])
    ramp, count = backbone.config.guidance_ramp, len(sizes)
    scales = [guidance_at(sampling, index, count, ramp) for index in range(count)]
    guidance = torch.tensor(scales, device=device)
    known = steps.places(sum(sizes), device)
    cache = steps.cache(backbone, prefix)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for index, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True)):
        begin = end - size
        noise = torch.empty(shape[0], size, backbone.codes, device=device)
        noise.exponential_(generator=generator)
        drawing = Drawing(noise, guidance[index], tokens[:, begin:end], fixed[:, begin:end])
        if index == 0:
            drawn = steps.first(backbone, prefix, cache, sampling, drawing)
        else:
            recent = tokenizer.recent(tokens[:, :begin])
            drawn = steps.following(
                backbone, prefix, cache, sampling, drawing, tokenizer, recent, known[begin]
            )
        tokens[:, begin:end] = drawn.tokens
        finite &= drawn.finite
        if (index + 1) % every == 0 or index in (0, count - 1):
            if not finite:
                raise SamplingError(
                    "the model gave values that are not finite; try other settings or fp32"
                )
            yield tokens[:, :end].clone()


def first(
    backbone: nn.Module, prefix: Prefix, cache: KVCache, sampling: Sampling, drawing: Drawing
) -> Drawn:
    """Prefill, and draw the first set."""
    return choose(backbone, backbone.prefill(prefix, cache), prefix, sampling, drawing)


def following(
    backbone: nn.Module,
    prefix: Prefix,
    cache: KVCache,
    sampling: Sampling,
    drawing: Drawing,
    tokenizer: nn.Module,
    recent: Tensor,
    known: Place,
) -> Drawn:
    """Read the `recent` tokens (B, m) of the `known` ones, and draw the set that comes next."""
    inputs = tokenizer.next_input(recent)
    inputs = torch.cat([inputs] * rows(sampling))
    hidden = backbone.step(inputs, known, prefix, cache)
    return choose(backbone, hidden, prefix, sampling, drawing)


def choose(
    backbone: nn.Module, hidden: Tensor, prefix: Prefix, sampling: Sampling, drawing: Drawing
) -> Drawn:
    """Hidden states (B or 2 B, n, D) -> tokens."""
    logits = backbone.logits(hidden, prefix).float()  # (B or 2 B, n, V)
    if rows(sampling) == 2:
        logits = guide(logits, drawing.guidance)
    finite = torch.isfinite(logits.amax(dim=-1)).all()
    tokens = draw(keep_likely(logits, sampling), sampling.temperature, drawing.noise)
    return Drawn(torch.where(drawing.fixed, drawing.given, tokens), finite)


def rows(sampling: Sampling) -> int:
    """Of the backbone for one of an image."""
    return 1 if sampling.guidance == 1 else 2


def guidance_at(sampling: Sampling, index: int, count: int, ramp: bool) -> float:
    """The scale of one set; under a ramp it grows linearly from 1 at the first set (VAR)."""
    return 1 + (sampling.guidance - 1) * index / (count - 1) if ramp else sampling.guidance


def guide(logits: Tensor, scale: Tensor | float) -> Tensor:
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


def draw(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """(B, n, V) -> (B, n); temperature 0 is greedy.

    noise: (B, n, V), exponentially distributed. The first of V independent clocks with rates p is
    number i with probability p_i, which is how `torch.multinomial` draws once.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    return (F.softmax(logits / temperature, dim=-1) / noise).argmax(dim=-1)
