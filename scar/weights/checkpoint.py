"""Build a SCAR from its config; save and load it as safetensors beside a config.json.

A checkpoint folder holds `config.json`, `model*.safetensors` and `tokenizer*.safetensors`, in
shards under 10 MB. The frozen encoders are not in it; they load their own published weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scar.config import (
    MultiScaleVQConfig,
    NextSetConfig,
    NextTokenConfig,
    ScarConfig,
    VQConfig,
)
from scar.errors import InputError, WeightsError
from scar.model import SCAR
from scar.next_set import NextSetTransformer
from scar.next_token import NextTokenTransformer
from scar.tokenizer import MultiScaleVQTokenizer, VQTokenizer
from scar.validation import from_dict, to_dict

SHARD_BYTES = 9_500_000  # a Space refuses files over 10 MB

TOKENIZERS = {VQConfig: VQTokenizer, MultiScaleVQConfig: MultiScaleVQTokenizer}
BACKBONES = {NextTokenConfig: NextTokenTransformer, NextSetConfig: NextSetTransformer}


def usable_device(name: str) -> torch.device:
    """The device called `name`, for "auto" CUDA where it can be used.

    Raises:
        InputError: torch does not know the name, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if _works("cuda") else "cpu")
    if not _works(name):
        raise InputError(f"There is no device {name!r} to use on this machine; choose auto or cpu.")
    return torch.device(name)


def _works(device: str) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # AssertionError: torch was built without CUDA
        return False
    return True


def build_tokenizer(config: VQConfig | MultiScaleVQConfig) -> VQTokenizer | MultiScaleVQTokenizer:
    return TOKENIZERS[type(config)](config)


def build_model(config: ScarConfig, for_training: bool = False) -> SCAR:
    """A SCAR with random weights; `for_training` adds U_k."""
    return SCAR(config, BACKBONES[type(config.backbone)], for_training)


def save_tokenizer(tokenizer: VQTokenizer | MultiScaleVQTokenizer, folder: Path) -> None:
    save_weights(tokenizer.state_dict(), folder, "tokenizer")


def load_tokenizer(
    config: VQConfig | MultiScaleVQConfig, folder: Path
) -> VQTokenizer | MultiScaleVQTokenizer:
    """A frozen tokenizer in eval mode."""
    tokenizer = build_tokenizer(config)
    load_strictly(tokenizer, load_weights(folder, "tokenizer"))
    return tokenizer.requires_grad_(False).eval()


def save_model(model: SCAR, config: ScarConfig, folder: Path) -> None:
    """Save the inference weights (without U_k) in bf16, and the config."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("upsampler.")}
    save_weights(state, folder, "model")
    (folder / "config.json").write_text(json.dumps(to_dict(config), indent=1))


def load_config(folder: Path) -> ScarConfig:
    try:
        return from_dict(ScarConfig, json.loads((folder / "config.json").read_text("utf-8-sig")))
    except OSError:
        raise WeightsError(f"{folder} is not a SCAR checkpoint: it has no config.json") from None
    except ValueError as error:
        raise WeightsError(f"{folder}/config.json is not a SCAR config: {error}") from error


def load_model(config: ScarConfig, folder: Path) -> SCAR:
    """A SCAR in eval mode."""
    model = build_model(config)
    load_strictly(model, load_weights(folder, "model"))
    return model.requires_grad_(False).eval()


def save_weights(
    state: dict[str, Tensor],
    folder: Path,
    stem: str,
    dtype: torch.dtype | None = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[list], Iterable] = iter,
) -> None:
    """Args:
    dtype: of the floats on disk; None: unchanged.
    progress: wraps the list of shards while they are written, e.g. `tqdm`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{stem}*.safetensors"):
        old.unlink()
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        value = value.to(dtype) if dtype and value.is_floating_point() else value
        if shards[-1] and size + value.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    for i, shard in enumerate(progress(shards), 1):
        file = folder / f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, file)
        file.chmod(0o644)  # safetensors makes files private to their owner


def load_weights(folder: Path, stem: str) -> dict[str, Tensor]:
    """All shards of a stem, floats as fp32."""
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} has no {stem} weights ({stem}*.safetensors)")
    count = int(files[0].stem.rpartition("-of-")[2] or 1)
    if len(files) != count:
        raise WeightsError(
            f"{folder} has {len(files)} of {count} {stem} files; copy the missing ones"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file.name} is damaged or not safetensors: {error}") from error
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def load_strictly(module: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` that names what is missing, left over or of another shape."""
    own = module.state_dict()
    faults = {
        "missing": [k for k in own if k not in state],
        "left over": [k for k in state if k not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    found = [f"{what}: {', '.join(keys[:5])}" for what, keys in faults.items() if keys]
    if found:
        raise WeightsError(f"weights do not fit {type(module).__name__}: {'; '.join(found)}")
    module.load_state_dict(state)
