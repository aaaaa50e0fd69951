"""The next-set backbone: a VAR-compatible transformer (Tian et al. 2024) behind a semantic prefix.

    [P_s ; T_t ; start ; scale 2 ; ... ; scale K]  ->  hidden states; the start token
                                          predicts scale 1, the inputs of scale k predict scale k

The start token is VAR's and the last slot of the prefix, which is set 0. Positions and level of the
prefix are parameters of their own, so VAR's weights load unchanged.

Letters: B batch (rows, under guidance), P prefix slots without the start token (p^2 visual ones,
then text), N tokens of an image, S = P + N positions, n positions of one call, D width, H heads,
d head width, V codes, c channels of a code.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.attention import attention_over, set_of
from scar.config import MultiScaleVQConfig, NextSetConfig
from scar.kv_cache import AttentionContext, InputPos, KVCache, position_index
from scar.prefix import Prefix


class NextSetTransformer(nn.Module):
    """A `scar.protocols.Backbone`. Sets are the scales of a multi-scale tokenizer: every scale
    attends to the prefix, to all coarser scales and to itself.

    Args:
        prefix_grid: p, side of the grid of the visual prefix; 0 without one.
    """

    paradigm: ClassVar[str] = "next-set"
    reads_pooled: ClassVar[bool] = True
    levels: Tensor  # (N,) scale of each token

    def __init__(self, config: NextSetConfig, tokenizer: MultiScaleVQConfig, prefix_grid: int):
        super().__init__()
        self.config, width = config, config.width
        self.set_sizes, self.codes = tokenizer.set_sizes, tokenizer.codebook_size
        self.head_dim = width // config.heads
        tokens, visual = sum(self.set_sizes), prefix_grid**2
        # Parameters have VAR's names, so that its weights load unchanged.
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.pos_1LC = nn.Parameter(torch.empty(1, tokens, width))
        self.lvl_embed = nn.Embedding(len(self.set_sizes), width)
        self.register_buffer("levels", set_of(1, self.set_sizes, None), persistent=False)
        self.word_embed = nn.Linear(tokenizer.code_dim, width)
        self.visual_position = nn.Parameter(torch.empty(visual, width))
        self.prefix_level = nn.Parameter(torch.empty(2, width))  # visual, text
        self.blocks = nn.ModuleList(TransformerBlock(config, i) for i in range(config.layers))
        self.head_nm = AdaNorm(width)
        self.head = nn.Linear(width, tokenizer.codebook_size)
        self._init_weights()

    def forward(self, prefix: Prefix, inputs: Tensor) -> Tensor:
        """Training, all positions in one pass: `Tokenizer.inputs` (B, N - 1, c) -> hidden states
        (B, S, D)."""
        x = torch.cat(
            [self._embed_prefix(prefix), self._embed_tokens(inputs, 1)], dim=1
        )  # (B, S, D)
        attention = attention_over(_with_start(prefix.valid), self.set_sizes)
        return self._run(x, AttentionContext(0, attention), prefix)  # (B, S, D)

    def prefill(self, prefix: Prefix, cache: KVCache) -> Tensor:
        """Fill the cache with prefix and start token -> their hidden states (B, P + 1, D). The last
        one predicts the first scale."""
        context = AttentionContext(0, cache.attention(0, cache.prefix), cache)
        return self._run(self._embed_prefix(prefix), context, prefix)

    def encode_prefix(self, prefix: Prefix) -> Tensor:
        """The hidden states of `prefill`, with gradients and without a cache: (B, P + 1, D). The
        prefix does not attend to the tokens, so they are the same as in `forward`."""
        attention = attention_over(_with_start(prefix.valid), self.set_sizes[:1])
        return self._run(self._embed_prefix(prefix), AttentionContext(0, attention), prefix)

    def step(self, inputs: Tensor, num_decoded: InputPos, prefix: Prefix, cache: KVCache) -> Tensor:
        """`Tokenizer.next_input` (B, n, c) of one or more scales, the first of which follows
        `num_decoded` tokens -> hidden states (B, n, D) that predict those scales."""
        start = cache.prefix + num_decoded - 1
        context = AttentionContext(start, cache.attention(start, inputs.shape[1]), cache)
        return self._run(self._embed_tokens(inputs, num_decoded), context, prefix)

    def logits(self, hidden: Tensor, prefix: Prefix) -> Tensor:
        """(B, n, D) -> (B, n, V). The AdaLN before the head is already applied, so that L_align is
        of the normalised states in both backbones."""
        return self.head(hidden)

    def cache(self, prefix: Prefix) -> KVCache:
        """An empty cache for a decode behind this prefix."""
        return KVCache(
            self.config.layers,
            _with_start(prefix.valid),
            self.config.heads,
            self.set_sizes,
            self.head_dim,
            prefix.slots.dtype,
        )

    def _embed_prefix(self, prefix: Prefix) -> Tensor:
        """[P_s ; T_t ; start] with their positions and levels, (B, P + 1, D)."""
        visual, text = prefix.slots.split(
            [len(self.visual_position), prefix.slots.shape[1] - len(self.visual_position)], dim=1
        )  # (B, p^2, D), (B, P - p^2, D)
        start = (
            prefix.pooled.unsqueeze(1)
            + self.pos_start
            + self.pos_1LC[:, :1]
            + self.lvl_embed.weight[0]
        )  # (B, 1, D)
        levels = self.prefix_level
        parts = [visual + self.visual_position + levels[0], text + levels[1], start]
        return torch.cat([part.to(prefix.slots.dtype) for part in parts], dim=1)

    def _embed_tokens(self, inputs: Tensor, num_decoded: InputPos) -> Tensor:
        """Inputs (B, n, c) of what follows `num_decoded` tokens -> (B, n, D)."""
        here = position_index(num_decoded, inputs.shape[1])
        x = self.word_embed(inputs.to(self.word_embed.weight.dtype))  # (B, n, D)
        return x + self.pos_1LC[:, here] + self.lvl_embed(self.levels[here])  # (B, n, D)

    def _run(self, x: Tensor, context: AttentionContext, prefix: Prefix) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        condition = F.silu(prefix.pooled)  # (B, D)
        # The residual stream has the precision of matrix products, as VAR's: bf16 under autocast.
        x = x.to(prefix.slots.dtype)
        for block in self.blocks:
            x = block(x, condition, context)  # (B, n, D)
        return self.head_nm(x, condition)  # (B, n, D)

    def _init_weights(self) -> None:
        """VAR's: truncated normals; head and modulations start small."""
        width = self.config.width
        std = math.sqrt(1 / width / 3)
        for parameter in (self.pos_start, self.pos_1LC, self.visual_position, self.prefix_level):
            nn.init.trunc_normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=math.sqrt(1 / width / 3))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            cast(TransformerBlock, block).scale_weights(depth=len(self.blocks))
        self.head_nm.ada_lin.weight.data.mul_(0.5)
        self.head.weight.data.mul_(0.02)


class TransformerBlock(nn.Module):
    """AdaLN block (Peebles and Xie 2023):

        x = x + gamma1 attn(norm(x) (1 + scale1) + shift1)
        x = x + gamma2 ffn(norm(x) (1 + scale2) + shift2)

    with the six modulations in VAR's order.
    """

    def __init__(self, config: NextSetConfig, index: int):
        super().__init__()
        self.attn = Attention(config, index)
        self.ffn = FeedForward(config.width)
        self.ada_lin = nn.Linear(config.width, 6 * config.width)
        self.drop_path = config.drop_path * index / max(config.layers - 1, 1)

    def scale_weights(self, depth: int) -> None:
        """Scale the initial weights of the residual branches and of the modulations, as VAR does;
        those of gamma start nearly at zero."""
        self.attn.proj.weight.data.div_(math.sqrt(2 * depth))
        self.ffn.fc2.weight.data.div_(math.sqrt(2 * depth))
        self.ada_lin.weight.data.mul_(0.5)
        self.ada_lin.weight.data[: self.ada_lin.out_features // 3].mul_(1e-3 / 0.5)

    def forward(self, x: Tensor, condition: Tensor, context: AttentionContext) -> Tensor:
        modulation = self.ada_lin(condition).unsqueeze(1).chunk(6, dim=-1)  # (B, 1, D) each
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        y = self.attn(layer_norm(x) * (1 + scale1) + shift1, context)  # (B, n, D)
        x = x + self._drop_path(gamma1 * y)  # (B, n, D)
        y = self.ffn(layer_norm(x) * (1 + scale2) + shift2)  # (B, n, D)
        return x + self._drop_path(gamma2 * y)  # (B, n, D)

    def _drop_path(self, y: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): whole examples skip the branch."""
        if not self.training or self.drop_path == 0:
            return y
        keep = 1 - self.drop_path
        return y * y.new_empty(len(y), 1, 1).bernoulli_(keep) / keep


class Attention(nn.Module):
    """Cosine attention: queries and keys have unit length; each head learns its scale, at most
    100."""

    def __init__(self, config: NextSetConfig, index: int):
        super().__init__()
        width, self.heads, self.index = config.width, config.heads, index
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, config.heads, 1, 1), math.log(4.0)))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])  # (3 D,)
        qkv = F.linear(x, self.mat_qkv.weight, bias)  # (B, n, 3 D)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, n, d)
        scale = self.scale_mul_1H11.clamp(max=math.log(100)).exp()  # (1, H, 1, 1)
        q = F.normalize(q.float(), dim=-1) * scale
        k = F.normalize(k.float(), dim=-1)
        y = context.attend(self.index, q.type_as(v), k.type_as(v), v, scale=1.0)  # (B, n, D)
        return self.proj(y)  # (B, n, D)


class FeedForward(nn.Module):
    """GELU MLP with hidden width 4 D."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # (B, n, D)


class AdaNorm(nn.Module):
    """The AdaLN before the head, norm(x) (1 + scale) + shift."""

    def __init__(self, width: int):
        super().__init__()
        self.ada_lin = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.ada_lin(condition).unsqueeze(1).chunk(2, dim=-1)  # (B, 1, D)
        return layer_norm(x) * (1 + scale) + shift


def layer_norm(x: Tensor) -> Tensor:
    """Without affine weights, which the modulations replace."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _with_start(valid: Tensor) -> Tensor:
    """(B, P) -> (B, P + 1): the start token is never padding."""
    return F.pad(valid, (0, 1), value=True)
