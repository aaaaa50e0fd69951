"""A training run as data: one frozen dataclass, read from YAML, overridden by key=value."""

from __future__ import annotations

import difflib
from collections.abc import Sized
from dataclasses import dataclass, field, fields, replace
from math import ceil
from pathlib import Path
from typing import get_type_hints

import yaml


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. Paths are relative to where the command is run."""

    objective: str  # tokenizer | scar
    preset: str  # a key of scar.presets.PRESETS
    out: str  # folder for checkpoints, logs and grids
    about: str = ""  # what the run costs and gives, in a sentence or two
    model: dict = field(default_factory=dict)  # fields of the preset to replace, nested

    # Data
    data: str = "toy"  # toy | imagenet | multigen | seed-edit
    folder: str = ""  # where the data lie (all but toy); layouts are in train/README.md
    control: str = ""  # which map is the condition: canny | depth | hed | sketch | lineart
    controls: str = ""  # folder of maps made beforehand (imagenet); "": drawn while training
    # auto takes the small embedded network where a detector's weights are not on this machine.
    detector: str = "auto"  # who draws maps while training: auto | real | embedded
    images: str = ""  # folder that paths in tables are relative to; "": the table's own
    # Which column holds what, where the names are others: {instruction: edit, control: my_map}.
    columns: dict = field(default_factory=dict)
    validation_folder: str = ""  # where validation data lie; "": files called validation* in folder
    # Share of the examples that become validation data where there are none, 512 at most.
    holdout: float = 0.02
    allow_data_change: bool = False  # resume with other data than the run was stopped with
    extracted: str = ""  # folder that `python -m train.extract` filled; read instead of images
    size: int = 256  # pixels a side
    fit: str = "crop"  # crop: a square out of the image | squash: the whole image, distorted
    enlarge: float = 1.0  # the square is 1 / enlarge of the short side, at random in training
    flip: float = 0.0  # share of examples mirrored; instructions say left and right
    workers: int = 4  # threads that read, decode and draw maps, per process
    objects: int = 48  # ToyScenes vocabulary
    wild: float = 0.5  # share of ToyScenes training scenes beyond its places; 0: the plain world
    tasks: dict = field(default_factory=lambda: {"edit": 1.0})  # task -> share of examples

    # What the run starts from
    tokenizer: str = ""  # folder of a trained tokenizer (objective scar)
    init: str = ""  # folder of a checkpoint whose weights are the start; fresh parts are named
    # Conditions of `init` that this model does without, such as conditioner.class_table.
    init_ignore: list = field(default_factory=list)
    # prefix: the backbone stays as `init` has it; what the prefix is made of and read by learns.
    train_only: str = ""  # "": everything | prefix

    # Schedule
    steps: int = 1000
    epochs: float = 0.0  # passes over the data; 0: `steps` decides
    batch_size: int = 32  # examples per optimiser step, over all processes
    accumulate: int = 1  # micro-batches per step
    learning_rate: float = 1e-4
    warmup: int = 0  # steps from 0 to the full rate
    decay: str = "constant"  # constant | cosine, to a tenth | linear, to zero

    # Optimiser
    # muon moves matrices, AdamW the rest; adamw8bit keeps moments in 8 bits (bitsandbytes).
    optimizer: str = "adamw"  # adamw | adamw8bit | muon
    fused: bool = False  # AdamW as one kernel: the same steps up to rounding
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05  # on the weights of linear, convolution and embedding layers
    clip: float = 1.0  # gradient norm
    ema: float = 0.999  # decay of the averaged weights; 0 keeps none
    # auto: bf16 on CUDA; on a CPU the faster one, measured at the start (train/loop/precision.py).
    precision: str = "auto"  # auto | bf16 (autocast) | fp32

    # Memory and speed; what is learned stays the same
    gradient_checkpointing: bool = False  # blocks keep their input and run again in the backward
    compile: bool = False  # torch.compile of the transformer

    # Conditions dropped for guidance: shares of examples
    drop_both: float = 0.05
    drop_image: float = 0.05
    drop_text: float = 0.05

    # Share of the examples of a step whose tokens are left out: the prefix alone, which decides
    # L_pres, L_align and L_region, costs about a quarter of a whole example.
    prefix_only: float = 0.0

    # Losses
    foreground: float = 0.0  # extra weight inside the edit mask, of tokens or of pixels
    perceptual: float = 1.0  # weight of the feature distance (tokenizer)
    close_up: float = 0.0  # weight of the same on the edit mask's box, enlarged (tokenizer)
    adversarial: float = 0.0  # weight of a critic of the enlarged boxes (tokenizer)
    # Of so many images one is judged: all of them can cost more than the tokenizer itself.
    judged_every: int = 4
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
    wandb: str = ""  # project of Weights & Biases to log to as well; "": none
    threads: int = 0  # CPU threads; 0: torch's choice

    def __post_init__(self) -> None:
        shares = self.drop_both + self.drop_image + self.drop_text
        checks = {
            "objective must be tokenizer or scar": self.objective in ("tokenizer", "scar"),
            "batch_size must be a multiple of accumulate": self.batch_size % self.accumulate == 0,
            "decay must be constant, cosine or linear": self.decay
            in ("constant", "cosine", "linear"),
            "optimizer must be adamw, adamw8bit or muon": self.optimizer
            in ("adamw", "adamw8bit", "muon"),
            "fused is for the optimizers adamw and muon": not self.fused
            or self.optimizer != "adamw8bit",
            "gradient_checkpointing and compile are for transformers, objective scar": not (
                self.objective == "tokenizer" and (self.gradient_checkpointing or self.compile)
            ),
            "precision must be auto, bf16 or fp32": self.precision in ("auto", "bf16", "fp32"),
            "the drop shares must lie in [0, 1] together": 0 <= shares <= 1,
            "keep must be at least 2": self.keep >= 2,
            "detector must be auto, real or embedded": self.detector
            in ("auto", "real", "embedded"),
            "train_only must be empty or prefix": self.train_only in ("", "prefix"),
            "train_only: prefix needs init, the backbone that stays, and objective scar": bool(
                not self.train_only or (self.init and self.objective == "scar")
            ),
            "fit must be crop or squash": self.fit in ("crop", "squash"),
            "enlarge must be 1 or more": self.enlarge >= 1,
            "holdout must lie in [0, 0.5]": 0 <= self.holdout <= 0.5,
            "columns must name a column for each role": all(
                isinstance(name, str) for name in self.columns.values()
            ),
            "flip must lie in [0, 1]": 0 <= self.flip <= 1,
            "prefix_only must be 0 or more, and below 1": 0 <= self.prefix_only < 1,
            "wild must lie in [0, 1]": 0 <= self.wild <= 1,
            "epochs must be 0 or more": self.epochs >= 0,
            "toy data have no end: set steps, not epochs": not (self.epochs and self.data == "toy"),
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(f"recipe: {message}")


def load_recipe(path: str | Path, overrides: list[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `key=value` overrides (dots reach into `model` and `tasks`).

    A recipe may name another one of its folder as `base`: it has all fields of that one but those
    it sets itself.

    Raises:
        ValueError: the file is missing, is not a mapping, or names an unknown or ill-typed key.
    """
    return make_recipe(_read(Path(path)), overrides)


def make_recipe(data: dict, overrides: list[str] = ()) -> Recipe:
    """A recipe of these fields, with `key=value` overrides; raises as `load_recipe`."""
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


def bounded_seed(seed: int) -> int:
    """Any integer as one that torch and numpy take: from 0 to 2^63 - 1, where it stays itself."""
    return seed % 2**63


def scheduled(recipe: Recipe, source: Sized) -> Recipe:
    """The recipe with its epochs over `source` as steps; the last one may reach into the next."""
    if not recipe.epochs:
        return recipe
    return replace(recipe, steps=ceil(recipe.epochs * len(source) / recipe.batch_size))


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist; recipes are in train/recipes/")
    try:
        data = yaml.safe_load(path.read_text("utf-8-sig"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path} must be a mapping of fields")
    base = data.pop("base", None)
    return _read(path.parent / base) | data if base else data


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
