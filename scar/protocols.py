"""The seams of the model as types: what a part needs of the other, whichever class provides it.

    Encoder       images -> features           scar.encoder.VisualEncoder
    TextEncoder   strings -> text embeddings   scar.text.TextEncoder
    Tokenizer     images <-> tokens            scar.tokenizer.VQTokenizer, MultiScaleVQTokenizer
    Backbone      prefix, tokens -> logits     scar.next_token.NextTokenTransformer,
                                               scar.next_set.NextSetTransformer
    Pipeline      PIL images -> PIL images     scar.pipeline.ScarPipeline

Nothing here imports torch at run time.

Letters: B batch (rows, under guidance), H x W pixels, h x w feature grid, C its channels, P prefix
slots, N tokens of an image, S = P + N - 1 positions, n positions of one call, m tokens so far,
D width, V codes, d channels of a code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from scar.config import (
        MultiScaleVQConfig,
        NextSetConfig,
        NextTokenConfig,
        Sampling,
        VQConfig,
    )
    from scar.kv_cache import InputPos, KVCache
    from scar.output import Output
    from scar.prefix import Prefix, TextEmbedding


class Encoder(Protocol):
    """Frozen: no gradient passes, and `train` leaves it in eval mode."""

    grid: int  # h = w
    width: int  # C

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, h, w, C) fp32."""


class TextEncoder(Protocol):
    """Frozen, as `Encoder`."""

    slots: int  # most tokens of a text
    width: int  # W

    def __call__(self, strings: list[str]) -> TextEmbedding:
        """B strings -> embeddings (B, T, W), left-padded to the longest."""


class Tokenizer(Protocol):
    """Images (B, 3, H, W) in [-1, 1] <-> tokens (B, N) int64, the sets one after the other."""

    @property
    def config(self) -> VQConfig | MultiScaleVQConfig: ...
    @property
    def set_sizes(self) -> tuple[int, ...]:
        """Tokens of each set; they add up to N, and the first is 1."""

    def encode(self, images: Tensor) -> Tensor:
        """Images -> tokens."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens -> images."""

    def preview(self, tokens: Tensor, backdrop: Tensor) -> Tensor:
        """The images of the first m tokens; what they do not cover shows `backdrop`."""

    def inputs(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) -> inputs of the backbone in training: ids (B, N - 1) or (B, N - 1, d)."""

    def last_tokens(self, tokens: Tensor, sets: int = 1) -> Tensor:
        """Of the first m tokens, those that `next_input` needs for `sets` sets."""

    def next_input(self, tokens: Tensor, sets: int = 1) -> Tensor:
        """Inputs of the `sets` consecutive sets whose last one follows `tokens`."""


class Backbone(Protocol):
    """A causal transformer over [prefix ; image tokens]. Hidden states are those after the last
    norm; the last N of a sequence predict its tokens."""

    paradigm: ClassVar[str]  # "next-token" or "next-set"
    reads_pooled: ClassVar[bool]  # whether `Prefix.pooled` modulates the blocks (AdaLN)

    def __init__(self, config: Any, tokenizer: Any, prefix_grid: int): ...
    @property
    def config(self) -> NextTokenConfig | NextSetConfig: ...
    @property
    def set_sizes(self) -> tuple[int, ...]: ...
    @property
    def codes(self) -> int:
        """V."""

    def __call__(self, prefix: Prefix, inputs: Tensor) -> Tensor:
        """Training: the whole sequence in one pass -> hidden states (B, S, D)."""

    def prefill(self, prefix: Prefix, cache: KVCache) -> Tensor:
        """Fill the cache with the prefix -> its hidden states (B, P, D)."""

    def encode_prefix(self, prefix: Prefix) -> Tensor:
        """The hidden states of `prefill`, with gradients and without a cache."""

    def step(self, inputs: Tensor, num_decoded: InputPos, prefix: Prefix, cache: KVCache) -> Tensor:
        """Add n positions to the cache -> their hidden states (B, n, D)."""

    def logits(self, hidden: Tensor, prefix: Prefix) -> Tensor:
        """(B, n, D) -> (B, n, V)."""

    def cache(self, prefix: Prefix) -> KVCache:
        """An empty cache for a decode behind this prefix."""


class Pipeline(Protocol):
    """What the studio needs of `scar.ScarPipeline`."""

    paradigm: str
    size: int  # pixels along a side of the model's square images
    total_tokens: int  # N
    classes: list[str]
    defaults: Sampling
    device: torch.device

    def edit(self, image: Image.Image, instruction: str, **options: Any) -> Output: ...
    def generate(self, control_map: Image.Image, prompt: str | int, **options: Any) -> Output: ...
    def edit_batch(
        self, images: Sequence[Image.Image], instructions: Sequence[str], **options: Any
    ) -> list[Output]: ...
    def generate_batch(
        self, control_maps: Sequence[Image.Image], prompts: Sequence[str | int], **options: Any
    ) -> list[Output]: ...
    def stream_edit(
        self, image: Image.Image, instruction: str, **options: Any
    ) -> Iterator[Output]: ...
    def stream_generate(
        self, control_map: Image.Image, prompt: str | int, **options: Any
    ) -> Iterator[Output]: ...
