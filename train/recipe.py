"""A training run as data: one frozen dataclass, read from YAML, overridden by key=value."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_type_hints

import yaml


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. Paths are relative to where the command is run."""

    objective: str  # tokenizer | scar
    preset: str  # a key of scar.config.PRESETS
    out: str  # folder for checkpoints, logs and grids
    about: str = ""  # what the run costs and gives, in a sentence or two
    model: dict = field(default_factory=dict)  # fields of the preset to replace, nested

    # Data
    data: str = "toy"
    size: int = 256  # pixels a side
    objects: int = 48  # ToyScenes vocabulary
    tasks: dict = field(default_factory=lambda: {"edit": 1.0})  # task -> share of examples

    # What the run starts from
    tokenizer: str = ""  # folder of a trained tokenizer (objective scar)
    init: str = ""  # folder of a checkpoint whose weights are the start; fresh parts are named

    # Schedule
    steps: int = 1000
    batch_size: int = 32  # examples per optimiser step, over all processes
    accumulate: int = 1  # micro-batches per step
    learning_rate: float = 1e-4
    warmup: int = 0  # steps from 0 to the full rate
    decay: str = "constant"  # constant (the paper's) | cosine, to a tenth | linear, to zero

    # Optimiser
    optimizer: str = "adamw"  # adamw | muon (matrices; AdamW for the rest)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05  # on matrices only
    clip: float = 1.0  # gradient norm
    ema: float = 0.999  # decay of the averaged weights; 0 keeps none
    precision: str = "bf16"  # bf16 (autocast) | fp32

    # Conditions dropped for guidance: shares of examples
    drop_both: float = 0.05
    drop_image: float = 0.05
    drop_text: float = 0.05

    # Losses that belong to one objective
    foreground: float = 0.0  # extra weight of tokens inside the edit mask (scar)
    perceptual: float = 1.0  # weight of the feature distance (tokenizer)
    commitment: float = 0.25  # weight of |z - sg(code)|^2 (tokenizer)
    patch_start: int = 0  # examples whose patches start the tokenizer's linear shortcut; 0: none
    train_encoder: bool = True  # False: the tokens stay as started, the decoder learns (tokenizer)
    spread: float = 0.0  # weight that keeps the latents in all their dimensions (tokenizer)
    continuous: int = 0  # steps over which the quantiser is phased in (tokenizer)

    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    keep: int = 2  # checkpoints kept
    grid_every: int = 500  # picture grids of fixed validation examples; 0: none
    workers: int = 0  # data processes
    threads: int = 0  # CPU threads; 0: torch's choice

    def __post_init__(self) -> None:
        shares = self.drop_both + self.drop_image + self.drop_text
        checks = {
            "objective must be tokenizer or scar": self.objective in ("tokenizer", "scar"),
            "batch_size must be a multiple of accumulate": self.batch_size % self.accumulate == 0,
            "decay must be constant, cosine or linear": self.decay
            in ("constant", "cosine", "linear"),
            "optimizer must be adamw or muon": self.optimizer in ("adamw", "muon"),
            "precision must be bf16 or fp32": self.precision in ("bf16", "fp32"),
            "the drop shares must lie in [0, 1] together": 0 <= shares <= 1,
            "keep must be at least 2": self.keep >= 2,
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(f"recipe: {message}")


def load_recipe(path: str | Path, overrides: list[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `key=value` overrides (dots reach into `model` and `tasks`).

    Raises:
        ValueError: the file is missing, is not a mapping, or names an unknown or ill-typed key.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist; recipes are in train/recipes/")
    data = yaml.safe_load(path.read_text())
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path} must be a mapping of fields")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"{override!r} is not key=value")
        *parents, last = key.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(text)
    return _build(data)


def _build(data: dict) -> Recipe:
    known = {f.name for f in fields(Recipe)}
    hints = get_type_hints(Recipe)
    values = {}
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"recipe: unknown key {key!r}{hint}")
        values[key] = _typed(key, hints[key], value)
    return Recipe(**values)


def _typed(key: str, kind: type, value):
    if key == "betas":
        return tuple(float(beta) for beta in value)
    if kind is float:
        try:
            return float(value)  # YAML reads 1e-4 as a string and 1 as an int
        except (TypeError, ValueError):
            raise ValueError(f"recipe: {key} must be a number, not {value!r}") from None
    if type(value) is not kind:
        raise ValueError(f"recipe: {key} must be {kind.__name__}, not {value!r}")
    return value
