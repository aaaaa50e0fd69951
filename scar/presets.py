"""The usual configurations by name: the published families and the embedded one."""

from __future__ import annotations

from dataclasses import replace

from scar.config import (
    AutoencoderConfig,
    ConditionConfig,
    EncoderConfig,
    MultiScaleVQConfig,
    NextSetConfig,
    NextTokenConfig,
    Sampling,
    ScarConfig,
    VQConfig,
)
from scar.errors import ConfigError
from scar.validation import did_you_mean, from_dict, merged, to_dict

# The published shapes. LlamaGen: table 1 of the paper; VAR: width 64 d, d heads.
LLAMAGEN = {
    # size layers heads width
    "b": (12, 12, 768),
    "l": (24, 16, 1024),
    "xl": (36, 20, 1280),
    "xxl": (48, 24, 1536),
    "3b": (24, 32, 3200),
}
VAR_DEPTHS = (12, 16, 20, 24, 30)

# Class-conditional weights are published at 256 px up to L, at 384 px above.
LLAMAGEN_PRESETS = {
    #                       size  px   conditions  sampling
    "llamagen-b-c2i":      ("b",   256, "class", Sampling(4.0, top_k=2000)),
    "llamagen-l-c2i":      ("l",   256, "class", Sampling(4.0, top_k=2000)),
    "llamagen-xl-c2i":     ("xl",  384, "class", Sampling(4.0, top_k=2000)),
    "llamagen-xxl-c2i":    ("xxl", 384, "class", Sampling(4.0, top_k=2000)),
    "llamagen-3b-c2i":     ("3b",  384, "class", Sampling(4.0, top_k=2000)),
    "llamagen-xl-t2i-256": ("xl",  256, "text",  Sampling(7.5, top_k=1000)),
    "llamagen-xl-t2i":     ("xl",  512, "text",  Sampling(7.5, top_k=1000)),
}  # fmt: skip
LLAMAGEN_CONDITIONS = {
    "class": ConditionConfig("none", text_slots=1, classes=1000),
    "text": ConditionConfig("flan-t5-xl", text_slots=120, learn_null_text=False),
}

_TOY_AUTOENCODER = AutoencoderConfig(
    (128, 256), blocks=1, latent=64, patch=4, attention=False, norm="none", shortcut=True
)
_TOY_ENCODER = EncoderConfig("efficientnet-lite0", image_size=256, features="multi")
_TOY_CONDITION = ConditionConfig("minilm-l6", text_slots=24)


def _llamagen(size: str, pixels: int, condition: str, sampling: Sampling) -> ScarConfig:
    return ScarConfig(
        NextTokenConfig(*LLAMAGEN[size], text_rotation="zero", dropout=0.1),
        VQConfig(pixels),
        condition=LLAMAGEN_CONDITIONS[condition],
        sampling=sampling,
    )


def _var(depth: int) -> ScarConfig:
    return ScarConfig(
        NextSetConfig(depth, depth, 64 * depth, drop_path=0.1 * depth / 24),
        MultiScaleVQConfig(),
        condition=ConditionConfig("none", text_slots=0, classes=1000),
        sampling=Sampling(2.5, top_k=900, top_p=0.96, guidance_ramp=True),
    )


PRESETS: dict[str, ScarConfig] = {
    **{name: _llamagen(*row) for name, row in LLAMAGEN_PRESETS.items()},
    **{f"var-d{depth}": _var(depth) for depth in VAR_DEPTHS},
    # The embedded family: 128 px, 16 x 16 tokens, 8 x 8 prefix; what two CPU cores can train and
    # serve. Of 64 validation edits next-token gets 92% right at guidance 3 and 94% at 5, which
    # costs 0.6 dB of background; next-set 64%, 69%, 67% at 3, 4, 5, and 56% at 3 with the joint
    # null: python -m train.evaluate toy_edit --split validation --n 64 --guidance G
    # --temperature 0.5 --null N
    "toy-next-token": ScarConfig(
        NextTokenConfig(6, 4, 256),
        VQConfig(128, codebook_size=2048, autoencoder=_TOY_AUTOENCODER),
        encoder=_TOY_ENCODER,
        condition=_TOY_CONDITION,
        sampling=Sampling(3.0, temperature=0.5),
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
        sampling=Sampling(4.0, temperature=0.5, guidance_ramp=True),
    ),
}


def preset_dict(preset: str, changes: dict | None = None) -> dict:
    """A preset with nested fields replaced, as `to_dict` has it; raises ConfigError."""
    if preset not in PRESETS:
        hint, known = did_you_mean(preset, PRESETS), ", ".join(PRESETS)
        raise ConfigError(f"unknown preset {preset!r}{hint}; known: {known}")
    return merged(to_dict(PRESETS[preset]), ScarConfig.upgraded(changes or {}))


def configure(preset: str, changes: dict | None = None) -> ScarConfig:
    """A preset with nested fields replaced, e.g. {"backbone": {"layers": 2}}.

    Raises:
        ConfigError: unknown preset or field, or a value that is not allowed.
    """
    return from_dict(ScarConfig, preset_dict(preset, changes))
