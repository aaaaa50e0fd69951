"""The next-set backbone: a VAR-compatible transformer (Tian et al. 2024) behind a semantic prefix.

The prefix shares set 0 with VAR's start token, which is appended here: [P_s ; T_t ; start ; scale 2
...]. Positions and level of the prefix are parameters of their own, so VAR's weights load
unchanged.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.attention import attention_over, set_of
from scar.config import MultiScaleVQConfig, NextSetConfig
from scar.kv_cache import AttentionContext, InputPos, KVCache, position_index
from scar.prefix import Prefix


class NextSetTransformer(nn.Module):
    """Sets are the scales of a multi-scale tokenizer: every scale sees the prefix and all coarser
    ones.

    Args:
        prefix_grid: cells a side of the visual prefix; 0 without one.
    """

    paradigm = "next-set"
    reads_pooled = True

    def __init__(self, config: NextSetConfig, tokenizer: MultiScaleVQConfig, prefix_grid: int):
        super().__init__()
        self.config, width = config, config.width
        self.set_sizes, self.codes = tokenizer.set_sizes, tokenizer.codebook_size
        self.head_dim = width // config.heads
        tokens, visual = sum(self.set_sizes), prefix_grid**2
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.pos_1LC = nn.Parameter(torch.empty(1, tokens, width))
        self.lvl_embed = nn.Embedding(len(self.set_sizes), width)
        levels = set_of(1, self.set_sizes, None)  # (N,)
        self.register_buffer("levels", levels, persistent=False)
        self.word_embed = nn.Linear(tokenizer.code_dim, width)
        self.visual_position = nn.Parameter(torch.empty(visual, width))
        self.prefix_level = nn.Parameter(torch.empty(2, width))  # of visual cells, of text
        self.blocks = nn.ModuleList(TransformerBlock(config, i) for i in range(config.layers))
        self.head_nm = AdaNorm(width)
        self.head = nn.Linear(width, tokenizer.codebook_size)
        self._initialise()

    def forward(self, prefix: Prefix, inputs: Tensor) -> Tensor:
        """All positions at once: canvases (B, N - 1, d) -> hidden states (B, P + 1 + N - 1, D)."""
        x = torch.cat([self._prefix(prefix), self._tokens(inputs, 1)], dim=1)
        valid = F.pad(prefix.valid, (0, 1), value=True)
        return self._run(x, AttentionContext(0, attention_over(valid, self.set_sizes)), prefix)

    def prefill(self, prefix: Prefix, cache: KVCache) -> Tensor:
        """Fill the cache with prefix and start; returns their hidden states (B, P + 1, D). The last
        one predicts the first set."""
        span = AttentionContext(0, cache.attention(0, cache.prefix), cache)
        return self._run(self._prefix(prefix), span, prefix)

    def encode_prefix(self, prefix: Prefix) -> Tensor:
        """The hidden states of `prefill`, with gradients and without a cache: (B, P + 1, D). Tokens
        come after the prefix, so they are the same as in `forward`."""
        valid = F.pad(prefix.valid, (0, 1), value=True)
        span = AttentionContext(0, attention_over(valid, self.set_sizes[:1]))
        return self._run(self._prefix(prefix), span, prefix)

    def step(self, inputs: Tensor, known: InputPos, prefix: Prefix, cache: KVCache) -> Tensor:
        """Canvases (B, n, d) at the sizes of one or more sets, the first of which follows `known`
        tokens -> hidden states (B, n, D) that predict those sets."""
        start = cache.prefix + known - 1
        span = AttentionContext(start, cache.attention(start, inputs.shape[1]), cache)
        return self._run(self._tokens(inputs, known), span, prefix)

    def logits(self, hidden: Tensor, prefix: Prefix) -> Tensor:
        """The head's AdaLN is already part of the hidden states (they are what L_align sees
        too)."""
        return self.head(hidden)

    def cache(self, prefix: Prefix) -> KVCache:
        return KVCache(
            self.config.layers,
            F.pad(prefix.valid, (0, 1), value=True),
            self.config.heads,
            self.set_sizes,
            self.head_dim,
            prefix.slots.dtype,
        )

    def _prefix(self, prefix: Prefix) -> Tensor:
        """[P_s ; T_t] with their positions and levels, and the start token (B, P + 1, D)."""
        visual, text = prefix.slots.split(
            [len(self.visual_position), prefix.slots.shape[1] - len(self.visual_position)], dim=1
        )
        start = (
            prefix.pooled.unsqueeze(1)
            + self.pos_start
            + self.pos_1LC[:, :1]
            + self.lvl_embed.weight[0]
        )
        levels = self.prefix_level
        parts = [visual + self.visual_position + levels[0], text + levels[1], start]
        return torch.cat([part.to(prefix.slots.dtype) for part in parts], dim=1)

    def _tokens(self, inputs: Tensor, known: InputPos) -> Tensor:
        """Inputs (B, n, d) of what follows `known` tokens -> (B, n, D)."""
        here = position_index(known, inputs.shape[1])
        inputs = inputs.to(self.word_embed.weight.dtype)
        return self.word_embed(inputs) + self.pos_1LC[:, here] + self.lvl_embed(self.levels[here])

    def _run(self, x: Tensor, span: AttentionContext, prefix: Prefix) -> Tensor:
        condition = F.silu(prefix.pooled)  # (B, D)
        # The residual stream has the precision of products: bf16 under autocast, as VAR's.
        x = x.to(prefix.slots.dtype)
        for block in self.blocks:
            x = block(x, condition, span)
        return self.head_nm(x, condition)

    def _initialise(self) -> None:
        """VAR's: truncated normals, and a head and modulations that start small."""
        width = self.config.width
        std = math.sqrt(1 / width / 3)
        for parameter in (self.pos_start, self.pos_1LC, self.visual_position, self.prefix_level):
            nn.init.trunc_normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=math.sqrt(1 / width / 3))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        depth = len(self.blocks)
        for block in self.blocks:
            block.attn.proj.weight.data.div_(math.sqrt(2 * depth))
            block.ffn.fc2.weight.data.div_(math.sqrt(2 * depth))
            block.ada_lin.weight.data.mul_(0.5)
            block.ada_lin.weight.data[: 2 * width].mul_(1e-3 / 0.5)
        self.head_nm.ada_lin.weight.data.mul_(0.5)
        self.head.weight.data.mul_(0.02)


class TransformerBlock(nn.Module):
    """AdaLN block; the six modulations come in VAR's order gamma1, gamma2, scale1, scale2, shift1,
    shift2."""

    def __init__(self, config: NextSetConfig, index: int):
        super().__init__()
        self.attn = Attention(config, index)
        self.ffn = FeedForward(config.width)
        self.ada_lin = nn.Linear(config.width, 6 * config.width)
        self.drop_path = config.drop_path * index / max(config.layers - 1, 1)

    def forward(self, x: Tensor, condition: Tensor, span: AttentionContext) -> Tensor:
        modulation = self.ada_lin(condition).unsqueeze(1).chunk(6, dim=-1)  # (B, 1, D) each
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        x = x + self._path(gamma1 * self.attn(plain_norm(x) * (1 + scale1) + shift1, span))
        return x + self._path(gamma2 * self.ffn(plain_norm(x) * (1 + scale2) + shift2))

    def _path(self, y: Tensor) -> Tensor:
        """Stochastic depth: whole examples skip the branch."""
        if not self.training or self.drop_path == 0:
            return y
        keep = 1 - self.drop_path
        return y * y.new_empty(len(y), 1, 1).bernoulli_(keep) / keep


class Attention(nn.Module):
    """Queries and keys of unit length; each head learns its temperature (at most 100)."""

    def __init__(self, config: NextSetConfig, index: int):
        super().__init__()
        width, self.heads, self.index = config.width, config.heads, index
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, config.heads, 1, 1), math.log(4.0)))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, span: AttentionContext) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.mat_qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, n, d)
        temperature = self.scale_mul_1H11.clamp(max=math.log(100)).exp()
        q = F.normalize(q.float(), dim=-1) * temperature
        k = F.normalize(k.float(), dim=-1)
        return self.proj(span.attend(self.index, q.type_as(v), k.type_as(v), v, scale=1.0))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class AdaNorm(nn.Module):
    """The AdaLN before the head, in the order scale, shift."""

    def __init__(self, width: int):
        super().__init__()
        self.ada_lin = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.ada_lin(condition).unsqueeze(1).chunk(2, dim=-1)
        return plain_norm(x) * (1 + scale) + shift


def plain_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
