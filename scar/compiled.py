"""Decoding with compiled steps: one function a set, with guidance, sampling and next_input inside.

On CUDA each becomes a CUDA graph, which replays what was launched at the addresses it was launched
with. So every step of the same shape must be the same work: a place in the sequence is a tensor,
and attention is over the whole cache behind a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.kv_cache import KVCache
from scar.prefix import Prefix, TextEmbedding
from scar.sampling import Prefilled, Steps, decode_set, read_sets, sample_tokens

# A function is compiled again for every size of a set and every setting of `Sampling`; torch's own
# bounds of 8 and 256 are meant for functions that should not be.
RECOMPILATIONS = 1024
RUN_LENGTHS = (64, 16, 4, 1)  # known tokens read in one pass


class Compiled(Steps):
    """Compiles at the first call and whenever a shape or a setting of `Sampling` is new.

    It keeps a cache for every shape of prefix, since a graph knows it by its address: decodes with
    one object may not overlap in time, and on CUDA belong in one thread, whose graphs they are.
    """

    def __init__(self) -> None:
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS
        how = {"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}
        self.sample_tokens = torch.compile(sample_tokens, **how)
        self.read_sets = torch.compile(read_sets, **how)
        self.decode_set = torch.compile(decode_set, **how)
        self._prefill = torch.compile(_prefill, **how)
        self._caches: dict[tuple[torch.Size, torch.dtype], KVCache] = {}

    def prefill(self, backbone: nn.Module, prefix: Prefix) -> Prefilled:
        key = prefix.slots.shape, prefix.slots.dtype
        if key not in self._caches:
            self._caches[key] = backbone.cache(prefix)
            self._caches[key].pin()
        cache = self._caches[key]
        cache.reset(prefix.valid)
        # A copy: the next replay of the graph writes over what this one returned.
        return Prefilled(prefix, cache, self._prefill(backbone, prefix, cache).clone())

    def places(self, count: int, device: torch.device) -> Tensor:
        return torch.arange(count, device=device)

    def chunks(self, count: int, set_sizes: tuple[int, ...]) -> list[int]:
        """Runs of a few lengths only, since each length is a graph of its own."""
        if max(set_sizes) > 1:
            return [1] * count
        chunks = []
        for length in RUN_LENGTHS:
            chunks += [length] * ((count - 1 - sum(chunks)) // length)
        return [*chunks, 1]


def _prefill(backbone: nn.Module, prefix: Prefix, cache: KVCache) -> Tensor:
    return backbone.prefill(prefix, cache)


def padded(text: TextEmbedding, slots: int) -> TextEmbedding:
    """Left-padded to at least `slots`, so that sentences of every length share their graphs."""
    more = max(slots - text.valid.shape[1], 0)
    return TextEmbedding(F.pad(text.tokens, (0, 0, more, 0)), F.pad(text.valid, (more, 0)))
