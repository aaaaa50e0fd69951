"""What is seen of a run: the progress bar, metrics.jsonl, tensorboard, and grids of fixed
examples."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image
from tqdm import tqdm

from train.recipe import Recipe

VALIDATION_EXAMPLES = 128
PICTURE_EXAMPLES = 8


class Report:
    """Writes to `out`; on resume, lines of steps that will be repeated are cut from
    metrics.jsonl."""

    def __init__(self, out: Path, recipe: Recipe, first_step: int):
        self.out, self.recipe = out, recipe
        out.mkdir(parents=True, exist_ok=True)
        self.metrics = out / "metrics.jsonl"
        if self.metrics.is_file():
            lines = self.metrics.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= first_step]
            self.metrics.write_text("".join(f"{line}\n" for line in kept))
        (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
        self.board = SummaryWriter(out / "tensorboard", purge_step=first_step)
        self.since, self.step = time.monotonic(), first_step

    def log(self, step: int, losses: dict[str, Tensor], facts: dict, bar: tqdm) -> None:
        """Losses by name, their sum, the facts of the step, speed and memory."""
        now = time.monotonic()
        row = {name: float(value) for name, value in losses.items()}
        row["loss"] = sum(row.values())
        row |= {name: float(value) for name, value in facts.items()}
        row["examples_per_second"] = (
            (step - self.step) * self.recipe.batch_size / (now - self.since)
        )
        if torch.cuda.is_available():
            row["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self.since, self.step = now, step
        self._write(step, "train", row)
        bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k not in ("rate", "skipped")})

    @torch.no_grad()
    def validate(self, step: int, objective, source) -> None:
        """Losses on fixed validation examples, and a grid of the first few."""
        objective.eval()
        sums: dict[str, float] = {}
        size = min(32, VALIDATION_EXAMPLES)
        batches = VALIDATION_EXAMPLES // size
        torch.manual_seed(0)
        for b in range(batches):
            for name, value in objective(
                source.batch(range(b * size, (b + 1) * size)), step
            ).items():
                sums[name] = sums.get(name, 0.0) + float(value) / batches
        self._write(step, "validation", sums)
        picture = (
            objective.picture(source.batch(range(PICTURE_EXAMPLES))).float().clamp(-1, 1) / 2 + 0.5
        )
        save_image(picture, self.out / f"grid-{step:08d}.png")
        self.board.add_image("validation", picture, step)
        objective.train()

    def close(self) -> None:
        self.board.close()

    def _write(self, step: int, group: str, row: dict[str, float]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "group": group, **row}) + "\n")
        for name, value in row.items():
            self.board.add_scalar(f"{group}/{name}", value, step)
