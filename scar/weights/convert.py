"""Conversion of published LlamaGen and VAR weights to a checkpoint that training can start from.

The published files contain neither the compressor nor the visual prefix. Those parts of a converted
checkpoint are newly initialised (`start.json` lists them), so it must be trained before it is
sampled from. Keys that are missing, left over or of another shape are an error that names them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from scar.config import ScarConfig
from scar.errors import WeightsError
from scar.model import SCAR
from scar.presets import configure
from scar.validation import to_dict
from scar.weights.checkpoint import (
    build_model,
    build_tokenizer,
    load_config,
    load_weights,
    save_weights,
)
from scar.weights.published import State, load_published

SHARD_BYTES = 200_000_000  # a converted backbone has up to 12 GB
# Parts of a SCAR that no published file contains, as beginnings of keys.
FRESH = (
    "compressor.",
    "upsampler.",
    "region.",
    "conditioner.visual.",
    "conditioner.null_visual",
    "conditioner.pool.",
    "backbone.visual_position",
    "backbone.prefix_level",
)


def convert(
    kind: str,
    file: Path,
    preset: str,
    folder: Path,
    changes: dict | None = None,
    weights: str = "",
) -> None:
    """Convert one published file and add it to the checkpoint in `folder`, whole or not at all.

    A folder is complete once it holds a backbone (kind "llamagen" or "var") and its tokenizer
    ("vq16" or "var-tokenizer"). Floats keep the precision of the file.

    Args:
        kind: a key of `CONVERTERS`.
        changes: fields of the preset to replace, nested.
        weights: "ema" or "model", where the file holds both.

    Raises:
        WeightsError: the file, the preset or the folder does not fit; the message says why.
    """
    if kind not in CONVERTERS:
        raise WeightsError(f"unknown layout {kind!r}; known: {', '.join(CONVERTERS)}")
    stem, converter = CONVERTERS[kind]
    config = configure(preset, changes)
    _check_folder(folder, config, stem)
    state = converter(load_published(file, stem, weights), config)
    texts = {}
    if stem == "model":
        fresh = _fresh_parts(config)
        state |= fresh
        texts["start.json"] = {"from": kind, "file": file.name, "fresh": sorted(fresh)}
    else:
        texts["tokenizer.json"] = to_dict(config.tokenizer)
    if stem == "model" or not (folder / "config.json").exists():
        texts["config.json"] = to_dict(config)
    with _published_into(folder) as scratch:
        bar = functools.partial(tqdm, desc=f"writing {stem}", unit="shard")
        save_weights(state, scratch, stem, dtype=None, shard_bytes=SHARD_BYTES, progress=bar)
        for name, content in texts.items():
            (scratch / name).write_text(json.dumps(content, indent=1))


def load_start(model: SCAR, folder: Path, ignore: Sequence[str] = ()) -> list[str]:
    """Load a checkpoint's weights as the start of training; returns the keys that it lacks,
    which keep their initial values.

    The backbone must fit exactly. Conditioner and compressor may differ from the checkpoint's
    (another compressor, text in addition to classes).

    Args:
        ignore: conditions that the checkpoint has and this model does without, as beginnings of
            keys: "conditioner.class_table" where a model of classes becomes one of text.

    Raises:
        WeightsError: the checkpoint is damaged, or its backbone is another one.
    """
    own, state = model.state_dict(), load_weights(folder, "model")
    spare = [key for key in state if key not in own and key.startswith("conditioner.")]
    ignored = [key for key in spare if key.startswith(tuple(ignore))]
    for key in (*_recorded_fresh(folder), *ignored):
        state.pop(key, None)
    fresh = [key for key in own if key not in state]
    expected = {
        key: value.shape
        for key, value in own.items()
        if key in state or (key.startswith("backbone.") and not key.startswith(FRESH))
    }
    parts = ", ".join(sorted({key.rpartition(".")[0] for key in spare if key in state}))
    remedy = f"; to start without say init_ignore: [{parts}]" if parts else ""
    _refuse_misfits(f"{folder} does not fit this model", state, expected, remedy)
    model.load_state_dict(state, strict=False)
    return fresh


def convert_llamagen(state: State, config: ScarConfig) -> State:
    """A LlamaGen transformer, class- or text-conditional (`autoregressive/models/gpt.py`)."""
    rules = {
        r"conditioner\.class_table\.weight": "cls_embedding.embedding_table.weight",
        r"conditioner\.text_in\.weight": "cls_embedding.cap_proj.fc1.weight",
        r"conditioner\.text_out\.weight": "cls_embedding.cap_proj.fc2.weight",
        r"conditioner\.null_text": "cls_embedding.uncond_embedding",
        r"backbone\.(.*)": r"\1",
    }
    return _converted(state, _shapes(build_model, config), rules, constants=r"freqs_cis")


def convert_vq16(state: State, config: ScarConfig) -> State:
    """The VQ-16 tokenizer of LlamaGen (`tokenizer/tokenizer_image/vq_model.py`)."""
    rules = {
        **_AUTOENCODER,
        r"(.*)\.levels\.(.*)": r"\1.conv_blocks.\2",
        r"(.*)\.qkv\.(\w+)": r"\1.q.\2|\1.k.\2|\1.v.\2",
    }
    return _converted(
        state,
        _shapes(build_tokenizer, config.tokenizer),
        rules,
        constants=r"quantize\.codebook_used",
    )


def convert_var(state: State, config: ScarConfig) -> State:
    """A VAR transformer (`models/var.py`), d12 to d30."""
    rules = {
        r"conditioner\.class_table\.weight": "class_emb.weight",
        r"backbone\.(.*)\.ada_lin\.(\w+)": r"\1.ada_lin.1.\2",
        r"backbone\.(.*)": r"\1",
    }
    constants = r"lvl_1L|attn_bias_for_masking|blocks\.\d+\.attn\.zero_k_bias"
    return _converted(state, _shapes(build_model, config), rules, constants)


def convert_var_tokenizer(state: State, config: ScarConfig) -> State:
    """The multi-scale tokenizer of VAR (`models/vqvae.py`)."""
    coarsest = len(config.tokenizer.autoencoder.channels) - 1
    rules = {
        **_AUTOENCODER,
        r"phi\.(.*)": r"quantize.quant_resi.qresi_ls.\1",
        r"(.*)\.mid\.0\.(.*)": r"\1.mid.block_1.\2",
        r"(.*)\.mid\.1\.(.*)": r"\1.mid.attn_1.\2",
        r"(.*)\.mid\.2\.(.*)": r"\1.mid.block_2.\2",
        r"(.*)\.res\.(.*)": r"\1.block.\2",
        r"encoder\.levels\.(.*)": r"encoder.down.\1",
        # VAR numbers the decoder's levels from the finest; here they are in the order they run.
        **{
            rf"decoder\.levels\.{i}\.(.*)": rf"decoder.up.{coarsest - i}.\1"
            for i in range(coarsest + 1)
        },
    }
    constants = r"quantize\.ema_vocab_hit_SV"
    return _converted(state, _shapes(build_tokenizer, config.tokenizer), rules, constants)


CONVERTERS: dict[str, tuple[str, Callable[[State, ScarConfig], State]]] = {
    "llamagen": ("model", convert_llamagen),
    "vq16": ("tokenizer", convert_vq16),
    "var": ("model", convert_var),
    "var-tokenizer": ("tokenizer", convert_var_tokenizer),
}

# Our names -> those that both published autoencoders use.
_AUTOENCODER = {
    r"codebook\.weight": "quantize.embedding.weight",
    r"(.*)\.head\.(norm|conv)\.(\w+)": r"\1.\2_out.\3",
    r"(.*)\.proj\.(\w+)": r"\1.proj_out.\2",
    r"(.*)\.skip\.(\w+)": r"\1.nin_shortcut.\2",
    r"encoder\.(.*)\.resample\.(.*)": r"encoder.\1.downsample.\2",
    r"decoder\.(.*)\.resample\.(.*)": r"decoder.\1.upsample.\2",
}


def _converted(state: State, shapes: dict, rules: dict[str, str], constants: str) -> State:
    """Fill `shapes`, our keys, from the published `state`.

    Args:
        rules: regular expressions of our keys -> published names, applied in order; "|" joins the
            names of tensors that are concatenated here.
        constants: regular expression of published names that are not parameters.
    """
    sources: dict[str, list[str]] = {}
    expected: dict[str, torch.Size] = {}
    for key, shape in shapes.items():
        name = key
        for pattern, replacement in rules.items():
            if match := re.fullmatch(pattern, name):
                name = match.expand(replacement)
        sources[key] = name.split("|")
        part = torch.Size((shape[0] // len(sources[key]), *shape[1:]))
        expected |= dict.fromkeys(sources[key], part)
    learned = {key: value for key, value in state.items() if not re.fullmatch(constants, key)}
    _refuse_misfits("the file does not fit the preset", learned, expected)
    parts = {key: [state[name] for name in names] for key, names in sources.items()}
    return {key: p[0] if len(p) == 1 else torch.cat(p) for key, p in parts.items()}


def _refuse_misfits(
    context: str, state: State, expected: dict[str, torch.Size], remedy: str = ""
) -> None:
    shared = [key for key in expected if key in state]
    faults = {
        "missing": [key for key in expected if key not in state],
        "left over": [key for key in state if key not in expected],
        "of another shape": [key for key in shared if state[key].shape != expected[key]],
        "not floating point": [key for key in shared if not state[key].is_floating_point()],
    }
    found = []
    for what, keys in faults.items():
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        found += [f"{what}: {', '.join(keys[:5])}{more}"] if keys else []
    if found:
        raise WeightsError(f"{context}; {'; '.join(found)}{remedy}")


def _shapes(build: Callable[..., nn.Module], config: Any) -> dict[str, torch.Size]:
    """Shapes of the parameters that a published file can contain."""
    with torch.device("meta"):
        state = build(config).state_dict()
    return {key: value.shape for key, value in state.items() if not key.startswith(FRESH)}


def _fresh_parts(config: ScarConfig) -> State:
    """Initial values of the parts in `FRESH`; they do not depend on the depth."""
    shallow = replace(config, backbone=replace(config.backbone, layers=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_model(shallow).state_dict()
    return {key: value for key, value in state.items() if key.startswith(FRESH)}


def _recorded_fresh(folder: Path) -> list[str]:
    record = folder / "start.json"
    return json.loads(record.read_text())["fresh"] if record.exists() else []


def _check_folder(folder: Path, config: ScarConfig, stem: str) -> None:
    """Raise WeightsError unless `folder` is new, or holds only the other half of this one."""
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder} is a file; name a folder")
    if any(folder.glob(f"{stem}*.safetensors")):
        raise WeightsError(f"{folder} already holds {stem} weights; name another folder")
    if (folder / "config.json").exists() and load_config(folder).tokenizer != config.tokenizer:
        raise WeightsError(f"{folder} holds a checkpoint with another tokenizer; name another one")


@contextlib.contextmanager
def _published_into(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` at the end; on any failure neither keeps
    them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    existed, moved = folder.exists(), []
    try:
        yield scratch
        folder.mkdir(exist_ok=True)
        # The config last: a folder with one counts as a checkpoint.
        for file in sorted(scratch.iterdir(), key=lambda file: file.name == "config.json"):
            moved.append(Path(shutil.move(file, folder / file.name)))
    except BaseException as error:
        for file in moved:
            file.unlink()
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise WeightsError(f"{folder} could not be written: {error}") from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
