"""Decoding: one loop for both paradigms, and the small pure functions it is made of.

A token is decoded in four steps:

    prefill          the backbone runs over the prefix once and fills the KV cache; the last hidden
                     state gives the logits of the first set
    forward_sets     the tokens decoded since then run through the backbone in one pass; their
                     hidden states give the logits of the next set
    guide            classifier-free guidance: l = u + s (c - u)
    filter, sample   top k, top p, then one draw per position

Next-token is next-set with sets of size one: a "set" below is one token of a `VQTokenizer`, or all
tokens of one scale of a `MultiScaleVQTokenizer`.

Letters: B batch, R = B rows of the backbone, or 2 B under guidance (conditional rows, then
unconditional ones), P prefix slots, N tokens of an image, n tokens of one set, m tokens so far,
D width, V codes, d channels of a code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.config import Sampling
from scar.errors import SamplingError
from scar.kv_cache import InputPos, KVCache
from scar.prefix import Prefix
from scar.protocols import Backbone, Tokenizer


class Prefilled(NamedTuple):
    """A prefix whose keys and values are in the cache."""

    prefix: Prefix
    cache: KVCache
    hidden: Tensor  # (R, P, D) last hidden states of the prefix


class SamplingInputs(NamedTuple):
    """What the n tokens of a set are sampled with."""

    noise: Tensor  # (B, n, V), exponentially distributed
    guidance: Tensor  # scalar, s
    forced_tokens: Tensor  # (B, n)
    forced_mask: Tensor  # (B, n) bool, True where the forced token replaces the sampled one


class SampledTokens(NamedTuple):
    tokens: Tensor  # (B, n)
    finite: Tensor  # scalar bool: the largest logit of every token is finite


@torch.inference_mode()
def decode(
    backbone: Backbone,
    prefilled: Prefilled,
    tokenizer: Tokenizer,
    sampling: Sampling,
    generator: torch.Generator,
    forced: tuple[Tensor, Tensor] | None = None,
    preview_every: int = 1,
    runner: EagerRunner | None = None,
) -> Iterator[Tensor]:
    """Decode the tokens of B images set by set, yielding those so far, (B, m).

    Sets whose tokens are all forced are not sampled: consecutive ones run through the backbone in
    one pass together with the set before them, and those after the last sampled set not at all. The
    sampled tokens are the same as without that.

    Args:
        forced: (tokens (B, N), mask (B, N) bool): where the mask is True the token is given.
        preview_every: sampled sets between two yields, 0 for none. The last yield always comes; so
            does one after the first sampled set unless it is 0. A yield includes the forced tokens
            that follow. Between two yields there is no host-device synchronisation.
        runner: runs the parts of a decode; None runs them eagerly.

    Raises:
        SamplingError: since the last yield a token had no finite logit, or one that is NaN.
    """
    runner = runner or EagerRunner()
    sizes, device = backbone.set_sizes, prefilled.hidden.device
    ends = list(accumulate(sizes))  # tokens up to and including each set
    shape = (len(prefilled.hidden) // cfg_rows(sampling), sum(sizes))  # (B, N)
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    sampled_sets = list(range(len(sizes)))
    if forced is not None:
        tokens.copy_(forced[0])
        mask.copy_(forced[1])
        sampled_sets = _sets_with(~mask, sizes)
    sample_set = partial(_sample_set, runner, backbone, prefilled, tokenizer, sampling)
    guidance = guidance_schedule(sampling, len(sizes)).to(device)  # (sets,)
    positions = runner.positions(sum(sizes), device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    # `cached`: the last set whose inputs are in the KV cache. Set 0 is predicted by the prefix.
    for count, (cached, index) in enumerate(zip([0, *sampled_sets], sampled_sets, strict=False)):
        here = slice(ends[index] - sizes[index], ends[index])
        noise = torch.empty(shape[0], sizes[index], backbone.codes, device=device)  # (B, n, V)
        noise.exponential_(generator=generator)
        inputs = SamplingInputs(noise, guidance[index], tokens[:, here], mask[:, here])
        sampled = sample_set(inputs, tokens, positions, cached, index)
        tokens[:, here] = sampled.tokens  # (B, n)
        finite &= sampled.finite
        last = count == len(sampled_sets) - 1
        if last or (preview_every and (count == 0 or (count + 1) % preview_every == 0)):
            if not finite:
                raise SamplingError(
                    "the model gave values that are not finite; try other settings or fp32"
                )
            num_decoded = sum(sizes) if last else ends[sampled_sets[count + 1] - 1]
            yield tokens[:, :num_decoded].clone()
    if not sampled_sets:
        yield tokens


def _sample_set(
    runner: EagerRunner,
    backbone: Backbone,
    prefilled: Prefilled,
    tokenizer: Tokenizer,
    sampling: Sampling,
    inputs: SamplingInputs,
    tokens: Tensor,
    positions: Sequence[InputPos] | Tensor,
    cached: int,
    index: int,
) -> SampledTokens:
    """Sample set `index` when the cache holds the inputs of the sets up to `cached`."""
    prefix, cache = prefilled.prefix, prefilled.cache
    if index == 0:
        hidden = prefilled.hidden[:, -1:]  # (R, 1, D)
        return runner.sample_tokens(backbone, hidden, prefix, sampling, inputs)
    ends = list(accumulate(backbone.set_sizes))
    *passes, last_pass = runner.split_sets(index - cached, backbone.set_sizes)
    for sets in passes:
        last_tokens = tokenizer.last_tokens(tokens[:, : ends[cached + sets - 1]], sets)
        num_decoded = positions[ends[cached]]
        runner.forward_sets(
            backbone, prefix, cache, sampling, tokenizer, last_tokens, sets, num_decoded
        )
        cached += sets
    last_tokens = tokenizer.last_tokens(tokens[:, : ends[index - 1]], last_pass)
    num_decoded = positions[ends[cached]]
    return runner.decode_set(
        backbone, prefix, cache, sampling, tokenizer, last_tokens, last_pass, num_decoded, inputs
    )


class EagerRunner:
    """Runs the parts of a decode eagerly; `scar.compiled.CompiledRunner` compiles them."""

    def __init__(self) -> None:
        self.sample_tokens = sample_tokens
        self.forward_sets = forward_sets
        self.decode_set = decode_set

    def prefill(self, backbone: Backbone, prefix: Prefix) -> Prefilled:
        cache = backbone.cache(prefix)
        return Prefilled(prefix, cache, backbone.prefill(prefix, cache))

    def positions(self, count: int, device: torch.device) -> Sequence[InputPos] | Tensor:
        """0 to count - 1, in the form that the other methods take."""
        return range(count)

    def split_sets(self, count: int, set_sizes: tuple[int, ...]) -> list[int]:
        """How many sets each forward pass covers, for `count` sets of which the last is sampled."""
        return [count]


def forward_sets(
    backbone: Backbone,
    prefix: Prefix,
    cache: KVCache,
    sampling: Sampling,
    tokenizer: Tokenizer,
    last_tokens: Tensor,
    sets: int,
    num_decoded: InputPos,
) -> Tensor:
    """One pass that predicts `sets` consecutive sets: hidden states (R, n, D).

    Args:
        last_tokens: (B, m), what `Tokenizer.next_input` needs for these sets.
        num_decoded: tokens before the first of these sets.
    """
    inputs = tokenizer.next_input(last_tokens, sets)  # (B, n) or (B, n, d)
    rows = torch.cat([inputs] * cfg_rows(sampling))  # (R, n) or (R, n, d)
    return backbone.step(rows, num_decoded, prefix, cache)


def decode_set(
    backbone: Backbone,
    prefix: Prefix,
    cache: KVCache,
    sampling: Sampling,
    tokenizer: Tokenizer,
    last_tokens: Tensor,
    sets: int,
    num_decoded: InputPos,
    inputs: SamplingInputs,
) -> SampledTokens:
    """`forward_sets`, then sample the last of these sets."""
    hidden = forward_sets(
        backbone, prefix, cache, sampling, tokenizer, last_tokens, sets, num_decoded
    )
    hidden = hidden[:, -inputs.forced_mask.shape[1] :]  # (R, n, D) of the last set
    return sample_tokens(backbone, hidden, prefix, sampling, inputs)


def sample_tokens(
    backbone: Backbone, hidden: Tensor, prefix: Prefix, sampling: Sampling, inputs: SamplingInputs
) -> SampledTokens:
    """Hidden states (R, n, D) -> tokens (B, n)."""
    logits = backbone.logits(hidden, prefix).float()  # (R, n, V)
    if cfg_rows(sampling) == 2:
        logits = guide(logits, inputs.guidance)  # (B, n, V)
    finite = torch.isfinite(logits.amax(dim=-1)).all()
    logits = filter_top_k_top_p(logits, sampling)  # (B, n, V)
    tokens = sample(logits, sampling.temperature, inputs.noise)  # (B, n)
    return SampledTokens(torch.where(inputs.forced_mask, inputs.forced_tokens, tokens), finite)


def cfg_rows(sampling: Sampling) -> int:
    """Backbone rows per image: 2 under classifier-free guidance, else 1."""
    return 1 if sampling.guidance == 1 else 2


def guidance_schedule(sampling: Sampling, sets: int) -> Tensor:
    """s of each set, (sets,); with a ramp it grows linearly from 1 at the first set (VAR)."""
    if not sampling.guidance_ramp:
        return torch.full((sets,), float(sampling.guidance))
    return torch.tensor([1 + (sampling.guidance - 1) * i / (sets - 1) for i in range(sets)])


def guide(logits: Tensor, scale: Tensor | float) -> Tensor:
    """l = u + s (c - u) over rows [c ; u]: (2 B, n, V) -> (B, n, V)."""
    conditional, unconditional = logits.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


def filter_top_k_top_p(logits: Tensor, sampling: Sampling) -> Tensor:
    """Everything outside the top k, and outside the smallest set of mass p, becomes -inf."""
    count = logits.shape[-1]
    if 0 < sampling.top_k < count:
        kth = logits.topk(sampling.top_k).values[..., -1:]  # (B, n, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = (logits / (sampling.temperature or 1)).sort(dim=-1)  # ascending
        tail = ordered.softmax(-1).cumsum(-1) <= 1 - sampling.top_p  # (B, n, V)
        tail[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), -torch.inf)
    return logits


def sample(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """(B, n, V) -> (B, n); temperature 0 is greedy.

    noise: q (B, n, V), exponentially distributed. argmax p / q has the distribution p: of V
        independent exponential clocks with rates p the first is number i with probability p_i. So
        does `torch.multinomial` for one sample; without it nothing synchronises with the host.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    return (F.softmax(logits / temperature, dim=-1) / noise).argmax(dim=-1)


def _sets_with(mask: Tensor, sizes: tuple[int, ...]) -> list[int]:
    """The sets that hold a True in some row of (B, N)."""
    columns = mask.any(dim=0).tolist()
    ends = enumerate(accumulate(sizes))
    return [i for i, end in ends if any(columns[end - sizes[i] : end])]
