"""Published PyTorch files: loaded without running code in them, and stripped of wrappers."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scar.errors import WeightsError

State = dict[str, Tensor]

# Names of the backbone and the tokenizer in files of VAR's trainer.
TRAINER_PARTS = {"model": "var_wo_ddp", "tokenizer": "vae_local"}
WRAPPERS = ("model", "module", "state_dict", "ema")
# Components of keys that DataParallel and torch.compile insert.
WRAPPER_NAMES = ("module", "_orig_mod")

# Plain values that are saved with weights: arguments of a run and numpy's numbers. Unpickling these
# only stores values.
_scalar, _reconstruct = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.PosixPath,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"},
    # numpy 2 renamed the module; files of either version load under both.
    *[(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")],
    *[(_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")],
]


def load_published(path: Path, part: str = "model", weights: str = "") -> State:
    """The state dict of a published file, without its wrappers.

    Args:
        part: "model" or "tokenizer", which a trainer's file holds both.
        weights: "ema" or "model", where a file holds both; "": the only ones.

    Raises:
        WeightsError: there is no such file, it is truncated, hostile or no state dict, or it leaves
            a choice; the message says what to do.
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    state = _unwrapped(_load(path), path.name, part, weights)
    if not isinstance(state, dict):
        raise WeightsError(f"{path.name} holds no state dict but a {type(state).__name__}")
    other = [str(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if other or not state:
        found = f"among its keys are {', '.join(other[:5])}" if other else "it is empty"
        raise WeightsError(
            f"{path.name} is a PyTorch file but holds no state dict of tensors: {found}; save the "
            "state dict alone, or under the key model"
        )
    return _without_wrapper_names(state, path.name)


def _load(path: Path) -> object:
    with torch.serialization.safe_globals(HARMLESS):
        try:
            mapped = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            if found is None:
                raise WeightsError(f"{path.name} is no PyTorch weights file; not loaded") from None
            raise WeightsError(
                f"{path.name} holds more than tensors and plain values: {found[1]}; not loaded, "
                "since that may run any code. If you trust the file, open it with the code it "
                "comes from and save its state dict alone"
            ) from None
        except Exception as error:  # a damaged archive fails in many ways, none of them documented
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise WeightsError(f"{path.name} is damaged or truncated: {reason}") from None


def _unwrapped(found: Any, name: str, part: str, weights: str) -> object:
    """LlamaGen wraps the state dict by trainer, VAR's trainer by what it trains."""
    if not isinstance(found, dict):
        return found
    if isinstance(found.get("trainer"), dict):
        key = TRAINER_PARTS[part]
        if not isinstance(found["trainer"].get(key), dict):
            raise WeightsError(f"{name} is a trainer's file without {key}, the {part}")
        found = found["trainer"][key]
    sets = {key: found[key] for key in WRAPPERS if isinstance(found.get(key), dict)}
    kinds = {"ema" if key == "ema" else "model": state for key, state in reversed(sets.items())}
    if weights and weights not in kinds:
        there = " and ".join(kinds) or "one set of weights, without a name"
        raise WeightsError(f"{name} holds no weights called {weights}; it holds {there}")
    if len(kinds) > 1 and not weights:
        raise WeightsError(
            f"{name} holds two sets of weights; say --weights ema, the averaged ones, or "
            "--weights model"
        )
    return kinds[weights] if weights else next(iter(kinds.values()), found)


def _without_wrapper_names(state: State, name: str) -> State:
    bare = {
        ".".join(part for part in key.split(".") if part not in WRAPPER_NAMES): value
        for key, value in state.items()
    }
    if len(bare) < len(state):
        raise WeightsError(f"{name} holds weights twice, with and without a wrapper in their names")
    return bare
