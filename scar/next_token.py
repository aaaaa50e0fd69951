"""The next-token backbone: a LlamaGen-compatible transformer (Sun et al. 2024) behind a semantic
prefix.

    [P_s ; T_t ; z_1 ... z_N-1]  ->  hidden states; position P + i predicts z_i+1

Letters: B batch (rows, under guidance), P prefix slots (p^2 visual ones, then text), N tokens of an
image, S = P + N - 1 positions, n positions of one call, D width, H heads, d head width, V codes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.attention import attention_over, masked_sdpa, set_mask
from scar.config import NextTokenConfig, VQConfig
from scar.errors import ConfigError
from scar.kv_cache import AttentionContext, InputPos, KVCache, position_index
from scar.prefix import Prefix
from scar.rope import grid_cells, rotary_table, rotate


class NextTokenTransformer(nn.Module):
    """A `scar.protocols.Backbone`. Sets have size one: every token attends to the whole prefix and
    to the tokens before it.

    Args:
        prefix_grid: p, side of the grid of the visual prefix; 0 without one.
    """

    paradigm: ClassVar[str] = "next-token"
    reads_pooled: ClassVar[bool] = False
    rope: Tensor  # (p^2 + N - 1, d / 2, 2) cos and sin, of the visual slots and the tokens

    def __init__(self, config: NextTokenConfig, tokenizer: VQConfig, prefix_grid: int):
        super().__init__()
        if config.prefix_attention not in ("full", "causal"):
            raise ConfigError(
                f"prefix_attention must be full or causal, not {config.prefix_attention!r}"
            )
        self.config = config
        self.set_sizes, self.codes = tokenizer.set_sizes, tokenizer.codebook_size
        self.head_dim = config.width // config.heads
        # Parameters have LlamaGen's names, so that its weights load unchanged.
        self.tok_embeddings = nn.Embedding(tokenizer.codebook_size, config.width)
        self.layers = nn.ModuleList(TransformerBlock(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, tokenizer.codebook_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        visual, target = _positions(config.prefix_positions, prefix_grid, tokenizer.grid)
        rope = rotary_table(torch.cat([visual, target[:-1]]), self.head_dim)
        self.visual_slots = len(visual)
        self.register_buffer("rope", rope, persistent=False)
        self.apply(_init_weights)
        nn.init.zeros_(self.output.weight)

    def forward(self, prefix: Prefix, inputs: Tensor) -> Tensor:
        """Training, all positions in one pass: tokens (B, N - 1) -> hidden states (B, S, D)."""
        x = torch.cat([prefix.slots, self.tok_embeddings(inputs)], dim=1)  # (B, S, D)
        attention = attention_over(prefix.valid, self.set_sizes, self._causal_prefix)
        return self._run(self.dropout(x), AttentionContext(0, attention), prefix)  # (B, S, D)

    def prefill(self, prefix: Prefix, cache: KVCache) -> Tensor:
        """Fill the cache with the prefix -> its hidden states (B, P, D). The last one predicts the
        first token."""
        attention = cache.attention(0, cache.prefix)
        if self._causal_prefix:
            attention = masked_sdpa(set_mask(prefix.valid, self.set_sizes[:1], causal_prefix=True))
        return self._run(prefix.slots, AttentionContext(0, attention, cache), prefix)

    def encode_prefix(self, prefix: Prefix) -> Tensor:
        """The hidden states of `prefill`, with gradients and without a cache: (B, P, D). The prefix
        does not attend to the tokens, so they are the same as in `forward`."""
        attention = attention_over(prefix.valid, self.set_sizes[:1], self._causal_prefix)
        x = prefix.slots.to(self.tok_embeddings.weight.dtype)  # as torch.cat promotes in `forward`
        return self._run(self.dropout(x), AttentionContext(0, attention), prefix)

    def step(self, inputs: Tensor, num_decoded: InputPos, prefix: Prefix, cache: KVCache) -> Tensor:
        """Tokens (B, n), the first of which is number `num_decoded` -> hidden states (B, n, D),
        each of which predicts the token after its own."""
        start = cache.prefix + num_decoded - 1
        context = AttentionContext(start, cache.attention(start, inputs.shape[1]), cache)
        return self._run(self.tok_embeddings(inputs), context, prefix)

    def logits(self, hidden: Tensor, prefix: Prefix) -> Tensor:
        """(B, n, D) -> (B, n, V)."""
        return self.output(hidden)

    def cache(self, prefix: Prefix) -> KVCache:
        """An empty cache for a decode behind this prefix."""
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

    def _run(self, x: Tensor, context: AttentionContext, prefix: Prefix) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        rope = self._rope(prefix.slots.shape[1])  # (S, d / 2, 2)
        rope = rope[position_index(context.start, x.shape[1])]  # (n, d / 2, 2)
        # The residual stream has the weights' precision, as LlamaGen's: fp32 under autocast.
        x = x.to(self.norm.weight.dtype)
        for layer in self.layers:
            x = layer(x, rope, context)  # (B, n, D)
        return self.norm(x)

    def _rope(self, prefix: int) -> Tensor:
        """(S, d / 2, 2): cos and sin for the visual slots, the text slots and the tokens."""
        text = self.rope.new_zeros(prefix - self.visual_slots, *self.rope.shape[1:])
        if self.config.text_rotation == "identity":
            text[..., 0] = 1  # the cosine of angle 0
        return torch.cat([self.rope[: self.visual_slots], text, self.rope[self.visual_slots :]])


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: NextTokenConfig, index: int):
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config, index)
        self.ffn_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rope: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rope, context))  # (B, n, D)
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))  # (B, n, D)


class Attention(nn.Module):
    """Multi-head attention with 2-D rotary positions."""

    def __init__(self, config: NextTokenConfig, index: int):
        super().__init__()
        self.heads, self.index = config.heads, index
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, rope: Tensor, context: AttentionContext) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, n, d) each
        y = context.attend(self.index, rotate(q, rope), rotate(k, rope), v)  # (B, n, D)
        return self.wo(y)  # (B, n, D)


class FeedForward(nn.Module):
    """SwiGLU, W_2 (silu(W_1 x) * W_3 x), with LlamaGen's hidden width: 8/3 D, rounded up to a
    multiple of 256."""

    def __init__(self, config: NextTokenConfig):
        super().__init__()
        hidden = -(-int(8 * config.width / 3) // 256) * 256
        self.w1 = nn.Linear(config.width, hidden, bias=False)
        self.w3 = nn.Linear(config.width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # (B, n, D)


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019), in fp32; the weight multiplies after the cast,
    as in LlamaGen."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).type_as(x) * self.weight


def _positions(layout: str, prefix_grid: int, grid: int) -> tuple[Tensor, Tensor]:
    """(row, column) of the visual slots (p^2, 2) and of the tokens (N, 2)."""
    if layout == "offset":
        return grid_cells(prefix_grid), grid_cells(grid, shift=prefix_grid)
    if layout == "shared":
        return grid_cells(prefix_grid, scale=grid / max(prefix_grid, 1)), grid_cells(grid)
    raise ConfigError(f"prefix_positions must be shared or offset, not {layout!r}")


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
