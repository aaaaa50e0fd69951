"""Sampling tokens: small pure functions, and the one decode loop that serves both paradigms.

A token is decoded in four moves: `prefill` reads the prefix once and fills the KV cache; its last
hidden state gives the logits of the first set; `decode_set` reads the tokens since the last draw in
one pass and gives the logits of the next set; `sample_tokens` guides, filters and draws.

Letters: B batch, R = B or 2 B rows (under guidance conditional rows, then unconditional ones),
P prefix slots, N tokens of an image, n tokens of one set, D width, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import Sampling
from scar.kv_cache import InputPos, KVCache
from scar.prefix import Prefix


class SamplingError(RuntimeError):
    """The model gave logits that are not finite."""


class Prefilled(NamedTuple):
    """A prefix that has been read."""

    prefix: Prefix
    cache: KVCache
    hidden: Tensor  # (R, P, D) last hidden states of the prefix


class SamplingInputs(NamedTuple):
    """What the n tokens of a set are drawn with."""

    noise: Tensor  # (B, n, V), exponentially distributed
    guidance: Tensor  # scalar
    forced_tokens: Tensor  # (B, n)
    forced_mask: Tensor  # (B, n) bool, where those are taken instead of drawn ones


class SampledTokens(NamedTuple):
    tokens: Tensor  # (B, n)
    finite: Tensor  # scalar bool: the logits of every token have a finite maximum


class Steps:
    """How the parts of a decode run: eagerly. `scar.compiled.Compiled` is the other way."""

    def __init__(self) -> None:
        self.sample_tokens, self.read_sets, self.decode_set = sample_tokens, read_sets, decode_set

    def prefill(self, backbone: nn.Module, prefix: Prefix) -> Prefilled:
        cache = backbone.cache(prefix)
        return Prefilled(prefix, cache, backbone.prefill(prefix, cache))

    def places(self, count: int, device: torch.device) -> Sequence[InputPos]:
        return range(count)

    def chunks(self, count: int, set_sizes: tuple[int, ...]) -> list[int]:
        """How many sets each pass reads, for `count` sets of which the last one is drawn."""
        return [count]


@torch.inference_mode()
def decode(
    backbone: nn.Module,
    prefilled: Prefilled,
    tokenizer: nn.Module,
    sampling: Sampling,
    generator: torch.Generator,
    forced: tuple[Tensor, Tensor] | None = None,
    preview_every: int = 1,
    steps: Steps | None = None,
) -> Iterator[Tensor]:
    """Guide, draw, write, step: yields the tokens so far (B, n), known ones that follow included.

    Sets whose tokens are all forced are not sampled: a run of them is read in one pass together
    with the set before it, and nothing is read after the last drawn set. What is drawn is the same.

    Args:
        forced: (tokens (B, N), mask (B, N) bool): tokens that are given rather than drawn.
        preview_every: drawn sets between two yields, 0 for none; the last yield always comes, and
            unless it is 0 so does one after the first drawn set. Between two yields there is no
            host-device synchronisation.
        steps: None decodes eagerly.

    Raises:
        SamplingError: since the last yield a token had no finite logit, or one that is NaN.
    """
    steps = steps or Steps()
    sizes, device = backbone.set_sizes, prefilled.hidden.device
    ends = list(accumulate(sizes))
    shape = (len(prefilled.hidden) // cfg_rows(sampling), sum(sizes))
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    drawn = list(range(len(sizes)))
    if forced is not None:
        tokens.copy_(forced[0])
        mask.copy_(forced[1])
        drawn = _sets_with(~mask, sizes)
    ramp = sampling.guidance_ramp
    scales = [guidance_at(sampling, index, len(sizes), ramp) for index in range(len(sizes))]
    guidance = torch.tensor(scales, device=device)
    places = steps.places(sum(sizes), device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for count, (read, index) in enumerate(zip([0, *drawn], drawn, strict=False)):
        here = slice(ends[index] - sizes[index], ends[index])
        noise = torch.empty(shape[0], sizes[index], backbone.codes, device=device)
        noise.exponential_(generator=generator)
        inputs = SamplingInputs(noise, guidance[index], tokens[:, here], mask[:, here])
        sampled = _sample_set(
            steps, backbone, prefilled, tokenizer, sampling, tokens, read, index, places, inputs
        )
        tokens[:, here] = sampled.tokens
        finite &= sampled.finite
        last = count == len(drawn) - 1
        if last or (preview_every and (count == 0 or (count + 1) % preview_every == 0)):
            if not finite:
                raise SamplingError(
                    "the model gave values that are not finite; try other settings or fp32"
                )
            known = sum(sizes) if last else ends[drawn[count + 1] - 1]
            yield tokens[:, :known].clone()
    if not drawn:
        yield tokens


def _sample_set(
    steps: Steps,
    backbone: nn.Module,
    prefilled: Prefilled,
    tokenizer: nn.Module,
    sampling: Sampling,
    tokens: Tensor,
    read: int,
    index: int,
    places: Sequence[InputPos],
    inputs: SamplingInputs,
) -> SampledTokens:
    """Draw set `index` when the cache holds what predicts the sets up to `read`."""
    prefix, cache = prefilled.prefix, prefilled.cache
    if index == 0:
        hidden = prefilled.hidden[:, -1:]
        return steps.sample_tokens(backbone, hidden, prefix, sampling, inputs)
    ends = list(accumulate(backbone.set_sizes))
    *before, final = steps.chunks(index - read, backbone.set_sizes)
    for sets in before:
        recent = tokenizer.recent(tokens[:, : ends[read + sets - 1]], sets)
        known = places[ends[read]]
        steps.read_sets(backbone, prefix, cache, sampling, tokenizer, recent, sets, known)
        read += sets
    recent = tokenizer.recent(tokens[:, : ends[index - 1]], final)
    known = places[ends[read]]
    return steps.decode_set(
        backbone, prefix, cache, sampling, tokenizer, recent, final, known, inputs
    )


def read_sets(
    backbone: nn.Module,
    prefix: Prefix,
    cache: KVCache,
    sampling: Sampling,
    tokenizer: nn.Module,
    recent: Tensor,
    sets: int,
    known: InputPos,
) -> Tensor:
    """One pass that predicts `sets` sets in a row, whose inputs come from the `recent` tokens
    (B, m): hidden states (R, n, D). `known` tokens come before the first of the sets."""
    inputs = tokenizer.next_input(recent, sets)
    return backbone.step(torch.cat([inputs] * cfg_rows(sampling)), known, prefix, cache)


def decode_set(
    backbone: nn.Module,
    prefix: Prefix,
    cache: KVCache,
    sampling: Sampling,
    tokenizer: nn.Module,
    recent: Tensor,
    sets: int,
    known: InputPos,
    inputs: SamplingInputs,
) -> SampledTokens:
    """`read_sets`, and draw the last set of them."""
    hidden = read_sets(backbone, prefix, cache, sampling, tokenizer, recent, sets, known)
    hidden = hidden[:, -inputs.forced_mask.shape[1] :]
    return sample_tokens(backbone, hidden, prefix, sampling, inputs)


def sample_tokens(
    backbone: nn.Module, hidden: Tensor, prefix: Prefix, sampling: Sampling, inputs: SamplingInputs
) -> SampledTokens:
    """Hidden states (R, n, D) -> tokens (B, n)."""
    logits = backbone.logits(hidden, prefix).float()  # (R, n, V)
    if cfg_rows(sampling) == 2:
        logits = guide(logits, inputs.guidance)  # (B, n, V)
    finite = torch.isfinite(logits.amax(dim=-1)).all()
    logits = filter_top_k_top_p(logits, sampling)
    tokens = sample(logits, sampling.temperature, inputs.noise)
    return SampledTokens(torch.where(inputs.forced_mask, inputs.forced_tokens, tokens), finite)


def cfg_rows(sampling: Sampling) -> int:
    """Backbone rows per image: 2 under classifier-free guidance, else 1."""
    return 1 if sampling.guidance == 1 else 2


def guidance_at(sampling: Sampling, index: int, count: int, ramp: bool) -> float:
    """The scale of one set; under a ramp it grows linearly from 1 at the first set (VAR)."""
    return 1 + (sampling.guidance - 1) * index / (count - 1) if ramp else sampling.guidance


def guide(logits: Tensor, scale: Tensor | float) -> Tensor:
    """u + s (c - u) over rows [c; u]: (2 B, n, V) -> (B, n, V)."""
    conditional, unconditional = logits.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


def filter_top_k_top_p(logits: Tensor, sampling: Sampling) -> Tensor:
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


def sample(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """(B, n, V) -> (B, n); temperature 0 is greedy.

    noise: (B, n, V), exponentially distributed. The first of V independent clocks with rates p is
    number i with probability p_i, which is how `torch.multinomial` draws once.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    return (F.softmax(logits / temperature, dim=-1) / noise).argmax(dim=-1)


def _sets_with(where: Tensor, sizes: tuple[int, ...]) -> list[int]:
    """The sets that hold a True in some row of (B, N)."""
    columns = where.any(dim=0).tolist()
    ends = enumerate(accumulate(sizes))
    return [i for i, end in ends if any(columns[end - sizes[i] : end])]
