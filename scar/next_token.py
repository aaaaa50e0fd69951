"""The next-token backbone: a LlamaGen-compatible transformer (Sun et al. 2024) behind a semantic
prefix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.attention import attention_over, masked_sdpa, set_mask
from scar.config import NextTokenConfig, VQConfig
from scar.kv_cache import AttentionContext, InputPos, KVCache, position_index
from scar.prefix import Prefix
from scar.rope import grid_cells, rotary_table, rotate


class NextTokenTransformer(nn.Module):
    """Sets of size one: every token sees the whole prefix and the tokens before it.

    Args:
        prefix_grid: cells a side of the visual prefix; 0 without one.
    """

    paradigm = "next-token"
    reads_pooled = False

    def __init__(self, config: NextTokenConfig, tokenizer: VQConfig, prefix_grid: int):
        super().__init__()
        if config.prefix_attention not in ("full", "causal"):
            raise ValueError(
                f"prefix_attention must be full or causal, not {config.prefix_attention!r}"
            )
        self.config = config
        self.set_sizes, self.codes = tokenizer.set_sizes, tokenizer.codebook_size
        self.head_dim = config.width // config.heads
        self.tok_embeddings = nn.Embedding(tokenizer.codebook_size, config.width)
        self.layers = nn.ModuleList(TransformerBlock(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, tokenizer.codebook_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        visual, target = _positions(config.prefix_positions, prefix_grid, tokenizer.grid)
        table = rotary_table(torch.cat([visual, target[:-1]]), self.head_dim)
        self.visual_slots = len(visual)
        self.register_buffer("table", table, persistent=False)
        self.apply(_initialise)
        nn.init.zeros_(self.output.weight)

    def forward(self, prefix: Prefix, inputs: Tensor) -> Tensor:
        """All positions at once: tokens (B, N - 1) -> hidden states (B, P + N - 1, D)."""
        x = torch.cat([prefix.slots, self.tok_embeddings(inputs)], dim=1)
        attention = attention_over(prefix.valid, self.set_sizes, self._causal_prefix)
        return self._run(self.dropout(x), AttentionContext(0, attention), prefix)

    def prefill(self, prefix: Prefix, cache: KVCache) -> Tensor:
        """Fill the cache with the prefix; returns its hidden states (B, P, D). The last one
        predicts the first set."""
        attention = cache.attention(0, cache.prefix)
        if self._causal_prefix:
            attention = masked_sdpa(set_mask(prefix.valid, self.set_sizes[:1], causal_prefix=True))
        return self._run(prefix.slots, AttentionContext(0, attention, cache), prefix)

    def encode_prefix(self, prefix: Prefix) -> Tensor:
        """The hidden states of `prefill`, with gradients and without a cache: (B, P, D). Tokens
        come after the prefix, so they are the same as in `forward`."""
        attention = attention_over(prefix.valid, self.set_sizes[:1], self._causal_prefix)
        x = prefix.slots.to(self.tok_embeddings.weight.dtype)  # as the cat of `forward` makes it
        return self._run(self.dropout(x), AttentionContext(0, attention), prefix)

    def step(self, inputs: Tensor, known: InputPos, prefix: Prefix, cache: KVCache) -> Tensor:
        """Tokens (B, n), the first of which is the last of `known` -> hidden states (B, n, D), each
        of which predicts the token after its own."""
        start = cache.prefix + known - 1
        span = AttentionContext(start, cache.attention(start, inputs.shape[1]), cache)
        return self._run(self.tok_embeddings(inputs), span, prefix)

    def logits(self, hidden: Tensor, prefix: Prefix) -> Tensor:
        return self.output(hidden)

    def cache(self, prefix: Prefix) -> KVCache:
        return KVCache(
            self.config.layers,
            prefix.valid,
            self.config.heads,
            self.set_sizes,
            self.head_dim,
            prefix.slots.dtype,
        )

    @property
    def _causal_prefix(self) -> bool:
        return self.config.prefix_attention == "causal"

    def _run(self, x: Tensor, span: AttentionContext, prefix: Prefix) -> Tensor:
        table = self._table(prefix.slots.shape[1])[position_index(span.start, x.shape[1])]
        # The residual stream keeps the weights' precision: fp32 under autocast, as LlamaGen's.
        x = x.to(self.norm.weight.dtype)
        for layer in self.layers:
            x = layer(x, table, span)
        return self.norm(x)

    def _table(self, prefix: int) -> Tensor:
        """(P + N - 1, d / 2, 2): angles of the visual cells, the text slots between, the tokens."""
        still = self.table.new_zeros(prefix - self.visual_slots, *self.table.shape[1:])
        if self.config.text_rotation == "identity":
            still[..., 0] = 1  # the cosine
        return torch.cat([self.table[: self.visual_slots], still, self.table[self.visual_slots :]])


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, in fp32, weight after the cast as LlamaGen has it."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).type_as(x) * self.weight


class TransformerBlock(nn.Module):
    def __init__(self, config: NextTokenConfig, index: int):
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config, index)
        self.ffn_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, table: Tensor, span: AttentionContext) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), table, span))
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))


class Attention(nn.Module):
    def __init__(self, config: NextTokenConfig, index: int):
        super().__init__()
        self.heads, self.index = config.heads, index
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, table: Tensor, span: AttentionContext) -> Tensor:
        q, k, v = (
            self.wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (B, H, n, d)
        return self.wo(span.attend(self.index, rotate(q, table), rotate(k, table), v))


class FeedForward(nn.Module):
    """SwiGLU with LlamaGen's width: two thirds of 4 D, rounded up to 256."""

    def __init__(self, config: NextTokenConfig):
        super().__init__()
        hidden = -(-int(8 * config.width / 3) // 256) * 256
        self.w1 = nn.Linear(config.width, hidden, bias=False)
        self.w3 = nn.Linear(config.width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def _positions(layout: str, prefix: int, grid: int) -> tuple[Tensor, Tensor]:
    """Cells of the visual prefix and of the tokens, (p^2, 2) and (N, 2)."""
    if layout == "offset":
        return grid_cells(prefix), grid_cells(grid, shift=prefix)
    if layout == "shared":
        return grid_cells(prefix, scale=grid / max(prefix, 1)), grid_cells(grid)
    raise ValueError(f"prefix_positions must be shared or offset, not {layout!r}")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
