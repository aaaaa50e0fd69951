"""Every choice the model makes, as frozen dataclasses that check their fields.

`scar.presets` names the usual configurations. Every field is read somewhere.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from scar.errors import InputError
from scar.validation import Count, Natural, NonNegative, Share, validated


@validated
class EncoderConfig:
    """The frozen visual foundation model E."""

    name: str = "dinov2-b"  # a key of scar.encoder.ENCODERS
    image_size: Count = 448  # pixels a side; 448 / 14 = 32 cells, one per VQ cell at 512 px
    # "last": final normalised features (the paper: "DINOv2-B features");
    # "multi": several depths, each layer-normalised, concatenated (the official code's "4th").
    features: Literal["last", "multi"] = "last"


@validated
class CompressorConfig:
    """P_k: the learnable k x k compression of the prefix."""

    # conv+resize is the paper's.
    kind: Literal["conv+resize", "conv", "resize", "pixel_unshuffle"] = "conv+resize"
    factor: Literal[1, 2, 4] = 2  # k: 1x, 4x, 16x fewer prefix tokens


@validated
class ConditionConfig:
    """Text, class and null conditions."""

    text_encoder: str = "flan-t5-xl"  # a key of scar.text.TEXT_ENCODERS, or "none"
    text_slots: Natural = 120  # text tokens in the prefix, left-padded; 0: none
    classes: Natural = 0  # class labels; 0: none
    # LlamaGen's text null is a fixed random buffer of its checkpoint; ours is learned.
    learn_null_text: bool = True


@validated
class NextTokenConfig:
    """A LlamaGen-compatible backbone."""

    layers: Count
    heads: Count
    width: Count
    dropout: Share = 0.0  # on token embeddings, attention and feed-forward outputs
    # LlamaGen multiplies text queries and keys by zero (its rotary table is zero there), so text is
    # averaged; "identity" leaves them as they are, so text can be looked up. Weights depend on it.
    text_rotation: Literal["identity", "zero"] = "identity"
    # "shared": prefix cells lie on the target's own grid, stretched to cover it;
    # "offset": the EditAR layout, prefix top left and target bottom right of one larger grid.
    prefix_positions: Literal["shared", "offset"] = "shared"
    # "full": prefix slots see each other in both directions (the paper); "causal": only what came
    # before them, as LlamaGen's captions do.
    prefix_attention: Literal["full", "causal"] = "full"
    kind: Literal["NextTokenConfig"] = Field(default="NextTokenConfig", kw_only=True, repr=False)


@validated
class NextSetConfig:
    """A VAR-compatible backbone."""

    layers: Count
    heads: Count
    width: Count
    drop_path: Share = 0.0  # of the last layer; grows linearly with depth
    kind: Literal["NextSetConfig"] = Field(default="NextSetConfig", kw_only=True, repr=False)


@validated
class AutoencoderConfig:
    """The convolutional encoder and decoder both tokenizers use."""

    channels: tuple[Count, ...] = (128, 128, 256, 256, 512)  # finest level first
    blocks: Count = 2  # residual blocks per level in the encoder; the decoder has one more
    latent: Count = 256  # channels between the autoencoder and the quantiser
    patch: Count = 1  # pixels are folded patch x patch into channels before the first level
    attention: bool = True  # self-attention at the coarsest level
    # "group": both references. "none": as in EDSR (Lim et al. 2017), since group norms take half of
    # a training step on a CPU.
    norm: Literal["group", "none"] = "group"
    # A linear map between pixels and latents beside the convolutions (the residual autoencoding of
    # Chen et al. 2024). Started from the principal components of patches it is a sound patch codec
    # at step 0, which the convolutions only have to improve.
    shortcut: bool = False
    # Pixels of the decoder's output per pixel that the encoder reads, along a side. Above 1 the
    # encoder reads images area-downsampled: the same tokens for a larger picture.
    upscale: Count = 1
    # Self-attention with rotary positions at the decoder's coarsest level, in place of `attention`.
    decoder_attention: bool = False

    @property
    def encoder_downsampling(self) -> int:
        """Pixels that the encoder reads per cell, along a side."""
        return self.patch * 2 ** (len(self.channels) - 1)

    @property
    def downsampling(self) -> int:
        """Pixels of an image per cell, along a side."""
        return self.upscale * self.encoder_downsampling


@validated
class VQConfig:
    """A single-scale tokenizer of the LlamaGen VQ-16 family."""

    image_size: Count = 256  # pixels a side, of what `encode` takes and `decode` gives
    codebook_size: Count = 16384
    code_dim: Count = 8
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    kind: Literal["VQConfig"] = Field(default="VQConfig", kw_only=True, repr=False)

    @property
    def grid(self) -> int:
        return self.image_size // self.autoencoder.downsampling

    @property
    def set_sizes(self) -> tuple[int, ...]:
        return (1,) * self.grid**2

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the grids that the tokens of an image form, one after the other."""
        return (self.grid,)


@validated
class MultiScaleVQConfig:
    """A residual multi-scale tokenizer of the VAR family."""

    scales: tuple[Count, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    image_size: Count = 256  # pixels a side, of what `encode` takes and `decode` gives
    codebook_size: Count = 4096
    code_dim: Count = 32
    residual_convs: Count = 4  # phi, shared between neighbouring scales
    autoencoder: AutoencoderConfig = AutoencoderConfig((160, 160, 320, 320, 640), latent=32)
    kind: Literal["MultiScaleVQConfig"] = Field(
        default="MultiScaleVQConfig", kw_only=True, repr=False
    )

    @property
    def grid(self) -> int:
        return self.image_size // self.autoencoder.downsampling

    @property
    def set_sizes(self) -> tuple[int, ...]:
        return tuple(side * side for side in self.scales)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the grids that the tokens of an image form, one after the other."""
        return self.scales


@validated
class LossConfig:
    """L = L_CE + preservation * L_pres + alignment * L_align + region * L_region."""

    preservation: NonNegative = 1.0
    alignment: NonNegative = 0.5  # the paper's delta
    region: NonNegative = 0.0  # ours; 0 is the paper's model, which has no region head
    # Without it both sides of L_align move and a constant projection minimises it.
    detach_target: bool = True
    # "raw": |H_s - P_t|^2, the paper's; "unit_rms": of both sides at unit mean square, so that it
    # can reach 0 behind a final norm with any weight.
    alignment_distance: Literal["unit_rms", "raw"] = "unit_rms"


@validated
class RegionConfig:
    """The edit region, for models trained with L_region."""

    threshold: Share = 0.3  # probability above which a cell may change
    whole: Share = 0.6  # share of the cells above which the whole picture may
    # Distance of source and target features (2 - 2 cos) above which a cell counts as changed, for
    # data that has no mask.
    feature_distance: NonNegative = 0.5


MAX_SEED = 2**31 - 1  # of a run; the studio, the command line and the pipeline take the same ones


class Range(NamedTuple):
    """The values a number of `Sampling` may have."""

    kind: type  # int | float
    lowest: float
    highest: float
    usual: tuple[float, float]  # what a slider spans
    step: float  # of a slider
    about: str

    def __str__(self) -> str:
        return f"{self.lowest:g} to {self.highest:.10g}"

    def clamped(self, value: float) -> float:
        """The nearest one that a slider shows."""
        return min(max(value, self.usual[0]), self.usual[1])


# The one table of limits: `Sampling`, both command lines, the studio and its API read it.
SAMPLING_RANGES: dict[str, Range] = {
    #                    kind   from   to        usual      step
    "guidance": Range(float, 0, 30, (0, 20), 0.1, "1 is none, more follows the words closer"),
    "temperature": Range(float, 0, 10, (0, 2), 0.05, "0 is greedy, lower is safer"),
    "top_k": Range(int, 0, 2**31 - 1, (0, 16384), 1, "draw from the k likeliest tokens; 0: all"),
    "top_p": Range(float, 0.001, 1, (0.05, 1), 0.01, "draw from the likeliest that sum to p"),
}
Null = Literal["text", "joint"]


def _limits(name: str):
    return Field(ge=SAMPLING_RANGES[name].lowest, le=SAMPLING_RANGES[name].highest)


@validated
class Sampling:
    """How tokens are drawn; `SAMPLING_RANGES` has the limits."""

    guidance: Annotated[float, _limits("guidance")] = 3.0  # s in u + s (c - u)
    temperature: Annotated[float, _limits("temperature")] = 1.0  # 0, all below 1e-6: greedy
    top_k: Annotated[int, _limits("top_k")] = 0
    top_p: Annotated[float, _limits("top_p")] = 1.0
    # What the unconditional half drops, "text" (the image stays) or "joint" (both go).
    null: Null = "text"
    guidance_ramp: bool = False  # VAR: the scale grows from 1 at the first set to its full value

    def __post_init__(self) -> None:
        if self.temperature < 1e-6:  # logits over so little would overflow
            object.__setattr__(self, "temperature", 0.0)


def check_seed(seed: int) -> int:
    """`seed`; raises InputError unless it is from 0 to `MAX_SEED`."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"The seed must lie between 0 and {MAX_SEED}.")
    return seed


def class_or_words(prompt: str) -> str | int:
    """The number of a class as an int, anything else as it is, also what is too long to be one."""
    is_class = isinstance(prompt, str) and prompt.strip().isdecimal() and len(prompt) <= 200
    return int(prompt) if is_class else prompt


@validated
class ScarConfig:
    """One complete SCAR: what `scar.weights.checkpoint.build_model` needs."""

    backbone: Annotated[NextTokenConfig | NextSetConfig, Field(discriminator="kind")]
    tokenizer: Annotated[VQConfig | MultiScaleVQConfig, Field(discriminator="kind")]
    encoder: EncoderConfig = EncoderConfig()
    compressor: CompressorConfig = CompressorConfig()
    condition: ConditionConfig = ConditionConfig()
    losses: LossConfig = LossConfig()
    region: RegionConfig = RegionConfig()
    sampling: Sampling = Sampling()
    class_names: tuple[str, ...] = ()

    @staticmethod
    def upgraded(data: dict) -> dict:
        """`data`, whole or in part, with the guidance ramp where it is now: it was a field of the
        backbone."""
        backbone = data.get("backbone") if isinstance(data, dict) else None
        if not isinstance(backbone, dict) or "guidance_ramp" not in backbone:
            return data
        rest = {key: value for key, value in backbone.items() if key != "guidance_ramp"}
        ramp = {"guidance_ramp": backbone["guidance_ramp"]}
        return data | {"backbone": rest, "sampling": ramp | data.get("sampling", {})}
