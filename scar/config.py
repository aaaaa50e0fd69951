"""Every choice the model makes, as frozen dataclasses, and the presets that name the usual ones.

A preset is data plus `dataclasses.replace`; an unknown key is an error; every field is read
somewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field, replace

from scar.errors import InputError


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen visual foundation model E."""

    name: str = "dinov2-b"  # a key of scar.encoder.ENCODERS
    image_size: int = 448  # pixels a side; 448 / 14 = 32 cells, one per VQ cell at 512 px
    # "last": final normalised features (the paper: "DINOv2-B features");
    # "multi": several depths, each layer-normalised, concatenated (the official code's "4th").
    features: str = "last"


@dataclass(frozen=True)
class CompressorConfig:
    """P_k: the learnable k x k compression of the prefix."""

    kind: str = "conv+resize"  # conv+resize (the paper) | conv | resize | pixel_unshuffle
    factor: int = 2  # k in {1, 2, 4}: 1x, 4x, 16x fewer prefix tokens


@dataclass(frozen=True)
class ConditionConfig:
    """Text, class and null conditions."""

    text_encoder: str = "flan-t5-xl"  # a key of scar.text.TEXT_ENCODERS, or "none"
    text_slots: int = 120  # text tokens in the prefix, left-padded; 0: none
    classes: int = 0  # class labels; 0: none
    # LlamaGen's text null is a fixed random buffer of its checkpoint; ours is learned.
    learn_null_text: bool = True


@dataclass(frozen=True)
class NextTokenConfig:
    """A LlamaGen-compatible backbone."""

    layers: int
    heads: int
    width: int
    dropout: float = 0.0  # on token embeddings, attention and feed-forward outputs
    # LlamaGen multiplies text queries and keys by zero (its rotary table is zero there), so text is
    # averaged; "identity" leaves them as they are, so text can be looked up. Weights depend on it.
    text_rotation: str = "identity"  # identity | zero
    # "shared": prefix cells lie on the target's own grid, stretched to cover it;
    # "offset": the EditAR layout, prefix top left and target bottom right of one larger grid.
    prefix_positions: str = "shared"
    # "full": prefix slots see each other in both directions (the paper); "causal": only what came
    # before them, as LlamaGen's captions do.
    prefix_attention: str = "full"
    guidance_ramp: bool = False  # False: one scale for every token


@dataclass(frozen=True)
class NextSetConfig:
    """A VAR-compatible backbone."""

    layers: int
    heads: int
    width: int
    drop_path: float = 0.0  # of the last layer; grows linearly with depth
    guidance_ramp: bool = True  # VAR: the scale grows from 1 at the first set to its full value


@dataclass(frozen=True)
class AutoencoderConfig:
    """The convolutional encoder and decoder both tokenizers use."""

    channels: tuple[int, ...] = (128, 128, 256, 256, 512)  # finest level first
    blocks: int = 2  # residual blocks per level in the encoder; the decoder has one more
    latent: int = 256  # channels between the autoencoder and the quantiser
    patch: int = 1  # pixels are folded patch x patch into channels before the first level
    attention: bool = True  # self-attention at the coarsest level
    # "group": both references. "none": as in EDSR (Lim et al. 2017), since group norms take half of
    # a training step on a CPU.
    norm: str = "group"
    # A linear map between pixels and latents beside the convolutions (the residual autoencoding of
    # Chen et al. 2024). Started from the principal components of patches it is a sound patch codec
    # at step 0, which the convolutions only have to improve.
    shortcut: bool = False
    # Pixels of the decoder's output per pixel that the encoder reads, along a side. Above 1 the
    # encoder reads images area-downsampled: the same tokens for a larger picture.
    upscale: int = 1
    # Self-attention with rotary positions at the decoder's coarsest level, in place of `attention`.
    decoder_attention: bool = False

    def __post_init__(self) -> None:
        if self.upscale < 1:
            raise ValueError(f"autoencoder.upscale must be 1 or more, not {self.upscale}")

    @property
    def encoder_downsampling(self) -> int:
        """Pixels that the encoder reads per cell, along a side."""
        return self.patch * 2 ** (len(self.channels) - 1)

    @property
    def downsampling(self) -> int:
        """Pixels of an image per cell, along a side."""
        return self.upscale * self.encoder_downsampling


@dataclass(frozen=True)
class VQConfig:
    """A single-scale tokenizer of the LlamaGen VQ-16 family."""

    image_size: int = 256  # pixels a side, of what `encode` takes and `decode` gives
    codebook_size: int = 16384
    code_dim: int = 8
    autoencoder: AutoencoderConfig = AutoencoderConfig()

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


@dataclass(frozen=True)
class MultiScaleVQConfig:
    """A residual multi-scale tokenizer of the VAR family."""

    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    image_size: int = 256  # pixels a side, of what `encode` takes and `decode` gives
    codebook_size: int = 4096
    code_dim: int = 32
    residual_convs: int = 4  # phi, shared between neighbouring scales
    autoencoder: AutoencoderConfig = AutoencoderConfig((160, 160, 320, 320, 640), latent=32)

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


@dataclass(frozen=True)
class LossConfig:
    """L = L_CE + preservation * L_pres + alignment * L_align + region * L_region."""

    preservation: float = 1.0
    alignment: float = 0.5  # the paper's delta
    region: float = 0.0  # ours; 0 is the paper's model, which has no region head
    # Without it both sides of L_align move and a constant projection minimises it.
    detach_target: bool = True
    # "raw": |H_s - P_t|^2, the paper's; "unit_rms": of both sides at unit mean square, so that it
    # can reach 0 behind a final norm with any weight.
    alignment_distance: str = "unit_rms"

    def __post_init__(self) -> None:
        if self.alignment_distance not in ("unit_rms", "raw"):
            raise ValueError(
                f"alignment_distance must be unit_rms or raw, not {self.alignment_distance!r}"
            )


@dataclass(frozen=True)
class RegionConfig:
    """The edit region, for models trained with L_region."""

    threshold: float = 0.3  # probability above which a cell may change
    whole: float = 0.6  # share of the cells above which the whole picture may
    # Distance of source and target features (2 - 2 cos) above which a cell counts as changed, for
    # data that has no mask.
    feature_distance: float = 0.5


MAX_SEED = 2**31 - 1  # of a run; the studio, the command line and the pipeline take the same ones


def check_seed(seed: int) -> int:
    """`seed`; raises InputError unless it is from 0 to `MAX_SEED`."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"The seed must lie between 0 and {MAX_SEED}.")
    return seed


def class_or_words(prompt: str) -> str | int:
    """The number of a class as an int, anything else as it is, also what is too long to be one."""
    is_class = isinstance(prompt, str) and prompt.strip().isdecimal() and len(prompt) <= 200
    return int(prompt) if is_class else prompt


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    guidance: 1 is none. temperature: 0, which all below 1e-6 becomes, is greedy. top_k 0 and top_p
    1 keep everything.
    null: what the unconditional half drops, "text" (the image stays) or "joint" (both go).
    """

    guidance: float = 3.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    null: str = "text"

    def __post_init__(self) -> None:
        checks = {
            "guidance must be between 0 and 30": 0 <= self.guidance <= 30,
            "temperature must be between 0 and 10": 0 <= self.temperature <= 10,
            "top_k must be 0 (everything) or more": self.top_k >= 0,
            "top_p must be above 0 and at most 1": 0 < self.top_p <= 1,
            "null must be text or joint": self.null in ("text", "joint"),
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)
        if self.temperature < 1e-6:  # logits over so little would overflow
            object.__setattr__(self, "temperature", 0.0)


@dataclass(frozen=True)
class ScarConfig:
    """One complete SCAR: what `scar.weights.checkpoint.build` needs."""

    backbone: NextTokenConfig | NextSetConfig
    tokenizer: VQConfig | MultiScaleVQConfig
    encoder: EncoderConfig = EncoderConfig()
    compressor: CompressorConfig = CompressorConfig()
    condition: ConditionConfig = ConditionConfig()
    losses: LossConfig = LossConfig()
    region: RegionConfig = RegionConfig()
    sampling: Sampling = field(default_factory=Sampling)
    class_names: tuple[str, ...] = ()


def to_dict(config) -> dict:
    """A JSON-ready dict; unions carry the class name under "kind"."""
    return _plain(config, tagged=False)


def from_dict(kind: type, data: dict):
    """The inverse of `to_dict`. Unknown keys raise KeyError naming the nearest valid one."""
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"{kind.__name__} has no field {key!r}{hint}")
    return kind(**{key: _typed(hints[key], value) for key, value in data.items()})


def _plain(value, tagged: bool):
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        fields = {
            f.name: _plain(getattr(value, f.name), _is_union(hints[f.name]))
            for f in dataclasses.fields(value)
        }
        return {"kind": type(value).__name__, **fields} if tagged else fields
    return list(value) if isinstance(value, tuple) else value


def _typed(hint, value):
    if _is_union(hint):
        options = {option.__name__: option for option in typing.get_args(hint)}
        fields = dict(value)
        kind = fields.pop("kind", None)
        if kind not in options:
            raise KeyError(f"kind must be one of {', '.join(options)}, not {kind!r}")
        return from_dict(options[kind], fields)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value)
    return tuple(value) if typing.get_origin(hint) is tuple else value


def _is_union(hint) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


# The published shapes. LlamaGen: table 1 of the paper; VAR: width 64 d, d heads.
LLAMAGEN = {
    #                          layers heads width
    "llamagen-b": NextTokenConfig(12, 12, 768),
    "llamagen-l": NextTokenConfig(24, 16, 1024),
    "llamagen-xl": NextTokenConfig(36, 20, 1280),
    "llamagen-xxl": NextTokenConfig(48, 24, 1536),
    "llamagen-3b": NextTokenConfig(24, 32, 3200),
}
VAR = {
    f"var-d{d}": NextSetConfig(d, d, 64 * d, drop_path=0.1 * d / 24) for d in (12, 16, 20, 24, 30)
}

_TOY_AUTOENCODER = AutoencoderConfig(
    (128, 256), blocks=1, latent=64, patch=4, attention=False, norm="none", shortcut=True
)
_TOY_ENCODER = EncoderConfig("efficientnet-lite0", image_size=256, features="multi")
_TOY_CONDITION = ConditionConfig("minilm-l6", text_slots=24)
# Of 64 validation edits next-token gets 92% right at guidance 3 and 94% at 5, which costs 0.6 dB of
# background; next-set 64%, 69%, 67% at 3, 4, 5, and 56% at 3 with the joint null: python -m
# train.evaluate.__main__ toy_edit --split validation --n 64 --guidance G --temperature 0.5 --null N
_TOY_SAMPLING = Sampling(guidance=3.0, temperature=0.5, null="text")


def _llamagen(name: str, size: int, condition: ConditionConfig, null: str = "text") -> ScarConfig:
    backbone = replace(LLAMAGEN[name], text_rotation="zero", dropout=0.1)
    sampling = (
        Sampling(7.5, top_k=1000, null=null)
        if condition.text_slots > 1
        else Sampling(4.0, top_k=2000, null=null)
    )
    return ScarConfig(backbone, VQConfig(size), condition=condition, sampling=sampling)


def _var(name: str) -> ScarConfig:
    return ScarConfig(
        VAR[name],
        MultiScaleVQConfig(),
        condition=ConditionConfig("none", text_slots=0, classes=1000),
        sampling=Sampling(2.5, top_k=900, top_p=0.96),
    )


_C2I = ConditionConfig("none", text_slots=1, classes=1000)
_T2I = ConditionConfig("flan-t5-xl", text_slots=120, learn_null_text=False)

PRESETS: dict[str, ScarConfig] = {
    # Class-conditional weights are published at 256 px up to L, at 384 px above.
    **{f"llamagen-{size}-c2i": _llamagen(f"llamagen-{size}", 256, _C2I) for size in ("b", "l")},
    **{
        f"llamagen-{size}-c2i": _llamagen(f"llamagen-{size}", 384, _C2I)
        for size in ("xl", "xxl", "3b")
    },
    "llamagen-xl-t2i-256": _llamagen("llamagen-xl", 256, _T2I),
    "llamagen-xl-t2i": _llamagen("llamagen-xl", 512, _T2I),
    **{name: _var(name) for name in VAR},
    # The embedded family: 128 px, 16 x 16 tokens, 8 x 8 prefix; what two CPU cores can train and
    # serve.
    "toy-next-token": ScarConfig(
        NextTokenConfig(6, 4, 256),
        VQConfig(128, codebook_size=2048, autoencoder=_TOY_AUTOENCODER),
        encoder=_TOY_ENCODER,
        condition=_TOY_CONDITION,
        sampling=_TOY_SAMPLING,
    ),
    "toy-next-set": ScarConfig(
        NextSetConfig(6, 4, 256),
        MultiScaleVQConfig(
            (1, 2, 4, 8, 12, 16),
            128,
            codebook_size=2048,
            code_dim=16,
            autoencoder=replace(_TOY_AUTOENCODER, latent=16),
        ),
        encoder=_TOY_ENCODER,
        condition=_TOY_CONDITION,
        sampling=replace(_TOY_SAMPLING, guidance=4.0),
    ),
}
