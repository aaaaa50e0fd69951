"""What a run reports: the progress bar, metrics.jsonl, tensorboard (and Weights & Biases), and
grids of fixed examples."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image
from tqdm import tqdm

from scar.validation import to_dict
from train.protocols import Objective, Source
from train.recipe import Recipe

VALIDATION_EXAMPLES = 128
PICTURE_EXAMPLES = 8


class Report:
    """Writes to `out`; on resume, lines of steps that will be repeated are cut from metrics.jsonl.

    Raises:
        ValueError: the recipe names a wandb project, and wandb is not installed.
    """

    def __init__(self, out: Path, recipe: Recipe, first_step: int):
        self.out, self.recipe = out, recipe
        out.mkdir(parents=True, exist_ok=True)
        self.metrics = out / "metrics.jsonl"
        _cut(self.metrics, first_step)
        (out / "recipe.json").write_text(json.dumps(to_dict(recipe), indent=1))
        self.board = SummaryWriter(out / "tensorboard", purge_step=first_step)
        self.wandb = _wandb_run(recipe, out) if recipe.run.wandb else None
        self.tokens = sum(recipe.model.tokenizer.set_sizes)
        self.since, self.step = time.monotonic(), first_step

    def log(self, step: int, losses: dict[str, Tensor], scalars: dict, bar: tqdm) -> None:
        """Losses by name, their sum, other scalars, speed and memory."""
        now = time.monotonic()
        row = {name: float(value) for name, value in losses.items()}
        row["loss"] = sum(row.values())
        row |= {name: float(value) for name, value in scalars.items()}
        speed = (step - self.step) * self.recipe.schedule.batch_size / (now - self.since)
        row |= {"examples_per_second": speed, "tokens_per_second": speed * self.tokens}
        row["memory_gb"] = peak_memory() / 1e9
        self.since, self.step = now, step
        self._write(step, "train", row)
        bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k not in ("rate", "skipped")})

    @torch.no_grad()
    def validate(self, step: int, objective: Objective, source: Source, autocast: Callable) -> None:
        """Losses on fixed validation examples, and a grid of the first few.

        autocast: gives a context for what the objective computes; examples are drawn outside.
        """
        objective.eval()
        sums: dict[str, float] = {}
        size = min(32, VALIDATION_EXAMPLES)
        batches = VALIDATION_EXAMPLES // size
        torch.manual_seed(0)
        for b in range(batches):
            raw = source.batch(range(b * size, (b + 1) * size))
            with autocast():
                losses = objective(raw, step)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) / batches
        self._write(step, "validation", sums)
        raw = source.batch(range(PICTURE_EXAMPLES))
        with autocast():
            picture = objective.picture(raw)
        picture = picture.float().clamp(-1, 1) / 2 + 0.5
        save_image(picture, self.out / f"grid-{step:08d}.png")
        self.board.add_image("validation", picture, step)
        if self.wandb:
            image = picture.movedim(0, -1).cpu().numpy()
            self.wandb.log({"validation": _wandb().Image(image)}, step=step)
        objective.train()

    def close(self) -> None:
        self.board.close()
        if self.wandb:
            self.wandb.finish()

    def _write(self, step: int, group: str, row: dict[str, float]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "group": group, **row}) + "\n")
        for name, value in row.items():
            self.board.add_scalar(f"{group}/{name}", value, step)
        if self.wandb:
            self.wandb.log({f"{group}/{name}": value for name, value in row.items()}, step=step)


def peak_memory() -> int:
    """Bytes at most so far: allocated on the GPU, or resident on the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cut(metrics: Path, first_step: int) -> None:
    """Keep the lines of steps up to `first_step`; a line that a kill left unfinished is none."""
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            step = json.loads(line)["step"]
        except ValueError:
            break
        if step <= first_step:
            kept.append(f"{line}\n")
    scratch = metrics.with_suffix(".tmp")
    scratch.write_text("".join(kept))
    os.replace(scratch, metrics)


def _wandb():
    try:
        import wandb
    except ImportError:
        raise ValueError("the recipe's wandb needs a package: pip install wandb") from None
    return wandb


def _wandb_run(recipe: Recipe, out: Path):
    """The same run of the project whenever this `out` goes on."""
    name = str(out).replace("/", "-")
    return _wandb().init(
        project=recipe.run.wandb, id=name, resume="allow", dir=str(out), config=to_dict(recipe)
    )
