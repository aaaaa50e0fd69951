"""The sections of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from scar.validation import Count, Decay, Natural, NonNegative, Share, validated

T = TypeVar("T")
Data = Literal["toy", "imagenet", "multigen", "seed-edit"]
MayChange = Annotated[T, "may change"]  # what a resumed run may change and be the same run


@validated
class DataConfig:
    """What is trained on. Layouts are in train/README.md."""

    kind: Data = "toy"
    folder: str = ""  # where the data lie (all but toy)
    validation_folder: str = ""  # where validation data lie; "": files called validation* in folder
    # Share of the examples that become validation data where there are none, 512 at most.
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    allow_change: MayChange[bool] = False  # resume with other data than the run was stopped with
    extracted: str = ""  # folder that `python -m train.extract` filled; read instead of images
    workers: MayChange[Natural] = 4  # threads that read, decode and draw maps, per process

    # Control maps
    control: str = ""  # which map is the condition: canny | depth | hed | sketch | lineart
    controls: str = ""  # folder of maps made beforehand (imagenet); "": drawn while training
    # Who draws maps while training; auto takes the small embedded network where a detector's
    # weights are not on this machine.
    detector: Literal["auto", "real", "embedded"] = "auto"

    # Tables
    images: str = ""  # folder that paths in tables are relative to; "": the table's own
    # Which column holds what, where the names are others: {instruction: edit, control: my_map}.
    columns: dict[str, str] = Field(default_factory=dict)

    # Framing
    size: Natural = 0  # pixels a side; 0: what the tokenizer reads
    fit: Literal["crop", "squash"] = "crop"  # a square out of the image, or all of it, distorted
    # The square is 1 / enlarge of the short side, at random in training.
    enlarge: Annotated[float, Field(ge=1)] = 1.0
    flip: Share = 0.0  # share of examples mirrored; instructions say left and right

    # ToyScenes
    objects: Count = 48  # vocabulary
    wild: Share = 0.5  # share of training scenes beyond its places; 0: the plain world
    tasks: dict[str, float] = Field(default_factory=lambda: {"edit": 1.0})  # -> share of examples


@validated
class WeightsConfig:
    """What the run starts from."""

    tokenizer: str = ""  # folder of a trained tokenizer (objective scar)
    init: str = ""  # folder of a checkpoint whose weights are the start; fresh parts are named
    # Conditions of `init` that this model does without, such as conditioner.class_table.
    init_ignore: tuple[str, ...] = ()
    # prefix: the backbone stays as `init` has it; what the prefix is made of and read by learns.
    train_only: Literal["", "prefix"] = ""  # "": everything


@validated
class ScheduleConfig:
    steps: MayChange[Natural] = 1000
    epochs: NonNegative = 0.0  # passes over the data; 0: `steps` decides
    batch_size: Count = 32  # examples per optimiser step, over all processes
    accumulate: Count = 1  # micro-batches per step
    warmup: Natural = 0  # steps from 0 to the full rate
    decay: Literal["constant", "cosine", "linear"] = "constant"  # cosine: to a tenth, linear: to 0


@validated
class OptimizerConfig:
    # muon moves matrices, AdamW the rest; adamw8bit keeps moments in 8 bits (bitsandbytes).
    name: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    learning_rate: NonNegative = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NonNegative = 0.05  # on the weights of linear, convolution and embedding layers
    clip: Annotated[float, Field(gt=0)] = 1.0  # gradient norm
    ema: Decay = 0.999  # decay of the averaged weights; 0 keeps none
    fused: MayChange[bool] = False  # AdamW as one kernel: the same steps up to rounding

    def __post_init__(self) -> None:
        if self.fused and self.name == "adamw8bit":
            raise ValueError("fused is for the optimizers adamw and muon")


@validated
class DropConfig:
    """Conditions dropped for guidance: shares of examples."""

    both: Share = 0.05
    image: Share = 0.05
    text: Share = 0.05

    def __post_init__(self) -> None:
        if self.both + self.image + self.text > 1:
            raise ValueError("the drop shares must lie in [0, 1] together")


@validated
class LossesConfig:
    """Weights beside those of `model.losses`."""

    foreground: NonNegative = 0.0  # extra weight inside the edit mask, of tokens or of pixels
    # Share of the examples of a step whose tokens are left out: the prefix alone, which decides
    # L_pres, L_align and L_region, costs about a quarter of a whole example.
    prefix_only: Decay = 0.0


@validated
class TokenizerTraining:
    """How a tokenizer is trained (objective tokenizer)."""

    perceptual: NonNegative = 1.0  # weight of the feature distance
    close_up: NonNegative = 0.0  # weight of the same on the edit mask's box, enlarged
    adversarial: NonNegative = 0.0  # weight of a discriminator of the enlarged boxes
    # One image in so many goes through these: all can cost more than the tokenizer itself.
    judged_every: Count = 4
    commitment: NonNegative = 0.25  # weight of |z - sg(code)|^2
    spread: NonNegative = 0.0  # weight that keeps the latents in all their dimensions
    continuous: Natural = 0  # steps over which the quantiser is phased in
    patch_start: Natural = 0  # examples whose patches start the linear shortcut; 0: none
    train_encoder: bool = True  # False: the tokens stay as started, the decoder learns


@validated
class ComputeConfig:
    """Memory and speed; what is learned stays the same."""

    # auto: bf16 on CUDA; on a CPU the faster one, measured at the start (train/loop/precision.py).
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # bf16: autocast
    # Blocks keep their input and run again in the backward pass.
    gradient_checkpointing: MayChange[bool] = False
    compile: MayChange[bool] = False  # torch.compile of the transformer
    threads: MayChange[Natural] = 0  # CPU threads; 0: torch's choice


@validated
class RunConfig:
    out: MayChange[str]  # folder for checkpoints, logs and grids
    seed: int = 0
    log_every: MayChange[Count] = 10
    save_every: MayChange[Count] = 500
    keep: MayChange[Annotated[int, Field(ge=2)]] = 2  # checkpoints kept
    grid_every: MayChange[Natural] = 500  # grids of fixed validation examples; 0: none
    wandb: MayChange[str] = ""  # project of Weights & Biases to log to as well; "": none
