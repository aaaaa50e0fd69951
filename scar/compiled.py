"""Decoding with compiled steps: one function a set, with guidance, sampling and next_input inside.

On CUDA each becomes a CUDA graph, which replays what was launched at the addresses it was launched
with. So every step of the same shape must be the same work: a place in the sequence is a tensor,
and attention is over the whole cache behind a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.conditioning import Prefix, Text
from scar.layers import KVCache
from scar.sampling import Steps, first, following

# A function is compiled again for every size of a set and every setting of `Sampling`; torch's own
# bounds of 8 and 256 are meant for functions that should not be.
RECOMPILATIONS = 1024


class Compiled(Steps):
    """Compiles at the first call and whenever a shape or a setting of `Sampling` is new.

    It keeps a cache for every shape of prefix, since a graph knows it by its address: decodes with
    one object may not overlap in time, and on CUDA belong in one thread, whose graphs they are.
    """

    def __init__(self) -> None:
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS
        how = {"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}
        self.first = torch.compile(first, **how)
        self.following = torch.compile(following, **how)
        self._caches: dict[tuple[torch.Size, torch.dtype], KVCache] = {}

    def cache(self, backbone: nn.Module, prefix: Prefix) -> KVCache:
        key = prefix.slots.shape, prefix.slots.dtype
        if key not in self._caches:
            self._caches[key] = backbone.cache(prefix)
            self._caches[key].pin()
        self._caches[key].reset(prefix.valid)
        return self._caches[key]

    def places(self, count: int, device: torch.device) -> Tensor:
        return torch.arange(count, device=device)


def padded(text: Text, slots: int) -> Text:
    """Left-padded to at least `slots`, so that sentences of every length share their graphs."""
    more = max(slots - text.valid.shape[1], 0)
    return Text(F.pad(text.tokens, (0, 0, more, 0)), F.pad(text.valid, (more, 0)))
