"""python -m train.evaluate toy_edit | toy_control --split test --n 500: what the embedded model can
do, in figures.

Prints a table, writes JSON, and with --grid draws the first test examples by index: source, output,
target.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from scar import ScarPipeline
from train.data.batch import to_signed
from train.data.toy import Batch, ToyScenes
from train.data.toy_sprites import sheet
from train.evaluate_control import control_table, evaluate_control, generate_all
from train.metrics import Features, SpriteFinder, bounding_boxes, psnr

OTHERS = 20  # other targets of the family that an output must be farther from
MARGIN = 0.95


@dataclass
class Scenes:
    """Test examples in memory, images in [-1, 1]."""

    raw: list[Batch]
    source: Tensor
    target: Tensor
    mask: Tensor

    def all(self, field: str) -> list:
        return [value for batch in self.raw for value in getattr(batch, field)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("task", choices=("toy_edit", "toy_control"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--paradigm", default="next-token", choices=("next-token", "next-set"))
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--objects", type=int, default=48, help="ToyScenes vocabulary")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--null", choices=("text", "joint"), help="what guidance drops")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--grid", type=Path, help="PNG of the first examples")
    arguments = parser.parse_args(argv)

    try:
        pipe = ScarPipeline.from_pretrained(arguments.model, paradigm=arguments.paradigm)
        if arguments.task == "toy_control":
            figures = evaluate_control(pipe, arguments)
            print(control_table(figures))
        else:
            figures = evaluate_edits(pipe, arguments)
            print(table(figures))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


@torch.inference_mode()
def evaluate_edits(pipe: ScarPipeline, arguments: argparse.Namespace) -> dict:
    """All figures of the editing task, by name; shares in percent, PSNR in dB."""
    scenes = load_scenes(pipe, arguments)
    features = Features(pipe.device)
    finder = SpriteFinder(features, sheet()[: arguments.objects].float().to(pipe.device) / 255)
    tokenizer = pipe.frozen.tokenizer
    tokens = torch.cat([tokenizer.encode(x) for x in scenes.target.split(50)])
    seen = torch.cat([tokenizer.decode(x) for x in tokens.split(50)])
    seen_source = torch.cat(
        [tokenizer.decode(tokenizer.encode(x)) for x in scenes.source.split(50)]
    )
    instructions = scenes.all("instruction")
    shuffled = instructions[1:] + instructions[:1]
    output = edit_all(pipe, scenes.source, instructions, arguments, "edits")
    misled = edit_all(pipe, scenes.source, shuffled, arguments, "other instructions")
    swapped = edit_all(pipe, scenes.source.roll(1, 0), instructions, arguments, "other sources")
    if arguments.grid:
        draw_grid(scenes, output, arguments.grid)

    success = successes(features, scenes, output)
    families, held_out = scenes.all("family"), scenes.all("held_out")
    background = ~scenes.mask
    keeps = background.float().mean((1, 2)) > 0.1  # a changed place leaves no background
    kept = psnr(output, scenes.source, background)[keeps].mean()
    original = recall(finder, scenes, scenes.target)
    figures = {
        "examples": len(instructions),
        "tokenizer PSNR": psnr(seen, scenes.target).mean(),
        "codes in use": len(tokens.unique()) / tokenizer.config.codebook_size,
        "original object recall": original,
        "tokenizer object recall, of the original's": share(recall(finder, scenes, seen), original),
        "edit success": success.mean(),
        **{
            f"success: {name}": success[pick(families, name)].mean()
            for name in sorted(set(families))
        },
        **{
            f"success, {label}": success[pick(held_out, key)].mean()
            for label, key in (
                ("nothing held out", ""),
                ("new phrasing", "phrasing"),
                ("new pair", "pair"),
            )
            if key in held_out
        },
        "background PSNR": kept,
        "background PSNR, tokenizer alone": psnr(seen_source, scenes.source, background)[
            keeps
        ].mean(),
        "success with another instruction": successes(features, scenes, misled).mean(),
        "background PSNR lost with another source": kept
        - psnr(swapped, scenes.source, background)[keeps].mean(),
        "new object recall, of the tokenizer's": share(
            new_recall(finder, scenes, output), new_recall(finder, scenes, seen)
        ),
    }
    percent = ("recall", "success", "in use")
    return {
        name: round(float(value) * (100 if any(word in name for word in percent) else 1), 2)
        for name, value in figures.items()
    }


def load_scenes(pipe: ScarPipeline, arguments: argparse.Namespace) -> Scenes:
    scenes = ToyScenes(arguments.split, pipe.size, arguments.objects, device=pipe.device)
    raw = [scenes.batch(range(i, min(i + 50, arguments.n))) for i in range(0, arguments.n, 50)]
    source, target = (
        to_signed(torch.cat([getattr(b, f) for b in raw])) for f in ("source", "target")
    )
    return Scenes(raw, source, target, torch.cat([b.mask for b in raw]))


def edit_all(
    pipe: ScarPipeline,
    sources: Tensor,
    instructions: list[str],
    arguments: argparse.Namespace,
    title: str,
) -> Tensor:
    """Edited images (n, 3, S, S) in [-1, 1], at the model's own sampling unless told otherwise."""
    none = torch.full((len(sources),), -1, device=pipe.device)
    return generate_all(pipe, sources, instructions, none, arguments, title)


def successes(features: Features, scenes: Scenes, output: Tensor) -> Tensor:
    """(n,) 0 or 1: in the edit's region the output is closer to the target than to the source, and
    closer to it than 95% of other targets of the family are."""
    boxes = bounding_boxes(scenes.mask)
    of_output, of_target, of_source = (
        features(images, boxes) for images in (output, scenes.target, scenes.source)
    )
    families = scenes.all("family")
    reached = (of_output - of_target).norm(dim=1)
    success = reached < (of_output - of_source).norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    for i, family in enumerate(families):
        others = pick(families, family)
        others = others[others != i]
        others = others[torch.randperm(len(others), generator=generator)[:OTHERS]]
        # The output's distance to its own target against its distance to the others'.
        farther = (of_output[i] - of_target[others]).norm(dim=1) > reached[i]
        success[i] &= farther.float().mean() >= MARGIN if len(others) else True
    return success.float()


def recall(finder: SpriteFinder, scenes: Scenes, images: Tensor) -> float:
    """Share of all target objects whose crop finds its sprite."""
    placed = [(i, o) for i, objects in enumerate(scenes.all("objects")) for o in objects]
    return _found(finder, images, placed)


def new_recall(finder: SpriteFinder, scenes: Scenes, images: Tensor) -> float:
    """The same over the objects that add and replace bring in."""
    rows = zip(scenes.all("family"), scenes.all("objects"), scenes.all("edited"), strict=True)
    placed = [
        (i, o[e]) for i, (f, o, e) in enumerate(rows) if f in ("add", "replace") and e is not None
    ]
    return _found(finder, images, placed)


def _found(finder: SpriteFinder, images: Tensor, placed: list) -> float:
    indices = torch.tensor([i for i, _ in placed])
    found = finder(images[indices], [o.box for _, o in placed]).cpu()
    return float((found == torch.tensor([o.sprite for _, o in placed])).float().mean())


def share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def pick(values: list[str], wanted: str) -> Tensor:
    return torch.tensor([i for i, value in enumerate(values) if value == wanted])


def draw_grid(
    scenes: Scenes, output: Tensor, path: Path, count: int = 24, columns: int = 4
) -> None:
    """Triples of source, output, target, by index; the instructions go to a text file beside it."""
    triples = torch.cat([scenes.source[:count], output[:count], scenes.target[:count]], dim=-1)
    rows = [torch.cat(list(triples[i : i + columns]), dim=-1) for i in range(0, count, columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(rows, dim=-2) / 2 + 0.5, path)
    lines = [f"{i}: {text}" for i, text in enumerate(scenes.all("instruction")[:count])]
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n")


def table(figures: dict) -> str:
    width = max(map(len, figures))
    shown = {k: "-" if math.isnan(v) else f"{v:.1f}" for k, v in figures.items()}
    return "\n".join(f"{name:<{width}}  {value:>8}" for name, value in shown.items())


if __name__ == "__main__":
    sys.exit(main())
