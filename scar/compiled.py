"""Decoding with torch.compile: one compiled function per set, with guidance, sampling and
`next_input` inside.

On CUDA each becomes a CUDA graph, which replays the same kernels at the same addresses. So every
call of the same shape must be the same work: a position in the sequence is a tensor, and attention
covers the whole cache behind a mask.

Letters: as in `scar.sampling`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.kv_cache import KVCache
from scar.prefix import Prefix, TextEmbedding
from scar.protocols import Backbone
from scar.sampling import EagerRunner, Prefilled, decode_set, forward_sets, sample_tokens

# A function is compiled again for every size of a set and every setting of `Sampling`. torch's own
# limits of 8 and 256 are meant to stop functions that recompile by mistake.
RECOMPILE_LIMIT = 1024
PASS_LENGTHS = (64, 16, 4, 1)  # forced tokens per forward pass


class CompiledRunner(EagerRunner):
    """Compiles at the first call, and for every new shape or setting of `Sampling`.

    It keeps one KV cache for each shape of prefix, because a CUDA graph holds its address. So
    decodes with one runner may not overlap in time, and on CUDA must come from one thread.
    """

    def __init__(self) -> None:
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        torch._dynamo.config.accumulated_recompile_limit = RECOMPILE_LIMIT
        options: dict[str, Any] = {"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}
        self.sample_tokens = torch.compile(sample_tokens, **options)
        self.forward_sets = torch.compile(forward_sets, **options)
        self.decode_set = torch.compile(decode_set, **options)
        self._prefill = torch.compile(_prefill, **options)
        self._caches: dict[tuple[torch.Size, torch.dtype], KVCache] = {}

    def prefill(self, backbone: Backbone, prefix: Prefix) -> Prefilled:
        key = prefix.slots.shape, prefix.slots.dtype
        if key not in self._caches:
            self._caches[key] = backbone.cache(prefix)
            self._caches[key].pin()
        cache = self._caches[key]
        cache.reset(prefix.valid)
        # A copy, because the next replay of the graph overwrites its output.
        return Prefilled(prefix, cache, self._prefill(backbone, prefix, cache).clone())

    def positions(self, count: int, device: torch.device) -> Tensor:
        return torch.arange(count, device=device)

    def split_sets(self, count: int, set_sizes: tuple[int, ...]) -> list[int]:
        """Only a few lengths, because each length is a graph of its own."""
        if max(set_sizes) > 1:
            return [1] * count
        passes: list[int] = []
        for length in PASS_LENGTHS:
            passes += [length] * ((count - 1 - sum(passes)) // length)
        return [*passes, 1]


def _prefill(backbone: Backbone, prefix: Prefix, cache: KVCache) -> Tensor:
    return backbone.prefill(prefix, cache)


def padded(text: TextEmbedding, slots: int) -> TextEmbedding:
    """(B, T, W) left-padded to at least `slots` tokens, so that texts of every length share their
    graphs."""
    more = max(slots - text.valid.shape[1], 0)
    return TextEmbedding(F.pad(text.tokens, (0, 0, more, 0)), F.pad(text.valid, (more, 0)))
