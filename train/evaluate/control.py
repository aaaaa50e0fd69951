"""Evaluation of generation from control maps: does the picture obey its map, and show its words?

A test example draws its map from one of the five kinds, in turn, with the detector a user without
downloads has. It is generated twice, from its caption and from its class, and every measure is also
taken of pictures that tell what its value means.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from scar import ScarPipeline
from scar.toyscenes.dataset import PlacedObject, ToyScenes
from train.data.batch import to_signed
from train.data.toy_tasks import CONTROLS, ControlMaps, main_object_views
from train.evaluate.classifier import ObjectClassifier, accuracy, open_classifier
from train.evaluate.control_metrics import edge_f1, frechet_distance, rmse, structural_similarity
from train.evaluate.generate import BATCH, generate_all
from train.evaluate.metrics import Features

Figures = dict[str, dict[str, float]]  # row -> column -> value

MEASURES = {
    "canny": ("Canny F1", edge_f1),
    "depth": ("depth RMSE", rmse),
    "hed": ("HED SSIM", structural_similarity),
    "sketch": ("sketch SSIM", structural_similarity),
    "lineart": ("lineart SSIM", structural_similarity),
}


@dataclass
class Conditions:
    """Test pictures and what they are to be generated from again."""

    images: Tensor  # (n, 3, S, S) in [-1, 1]
    maps: Tensor  # uint8 (n, 3, S, S)
    kinds: list[str]
    captions: list[str]
    label: Tensor  # (n,)
    objects: list[list[PlacedObject]]
    main: list[list[PlacedObject]]  # one each


def evaluate_control(pipe: ScarPipeline, arguments: argparse.Namespace) -> Figures:
    """Figures by row and column; shares in percent.

    Columns: generated from a caption and from a class (absent if the model has no classes), another
    test picture, the tokenizer's reconstruction, the original.

    Raises ValueError if the model has classes, but fewer than there are objects.
    """
    classes = pipe.config.condition.classes
    if 0 < classes < arguments.objects:
        raise ValueError(f"the model has {classes} classes; evaluate it with --objects {classes}")
    features = Features(pipe.device)
    classifier = open_classifier(features, pipe.size, arguments.objects)
    maps = ControlMaps(pipe.device)
    with torch.inference_mode():
        given = load_conditions(pipe, maps, arguments)
        pictures = columns(pipe, given, arguments)
        if arguments.grid:
            draw_grid(given, pictures, arguments.grid)
        figures = {}
        for name, images in tqdm(pictures.items(), desc="measures", leave=False):
            measured = control_figures(maps, given, images)
            measured |= object_figures(classifier, given, images)
            measured["Frechet distance"] = frechet_distance(
                summary(features, images), summary(features, given.images)
            )
            for row, value in measured.items():
                figures.setdefault(row, {})[name] = round(value, 4)
    return figures


def load_conditions(
    pipe: ScarPipeline, maps: ControlMaps, arguments: argparse.Namespace
) -> Conditions:
    scenes = ToyScenes(arguments.split, pipe.size, arguments.objects, device=pipe.device)
    parts = [
        main_object_views(scenes.batch(range(i, min(i + BATCH, arguments.n))))
        for i in range(0, arguments.n, BATCH)
    ]
    images = torch.cat([part.images for part in parts])
    kinds = [CONTROLS[i % len(CONTROLS)] for i in range(len(images))]
    return Conditions(
        to_signed(images),
        maps(images, kinds),
        kinds,
        [caption for part in parts for caption in part.caption],
        torch.cat([part.label for part in parts]),
        [objects for part in parts for objects in part.objects],
        [[main] for part in parts for main in part.main],
    )


def columns(
    pipe: ScarPipeline, given: Conditions, arguments: argparse.Namespace
) -> dict[str, Tensor]:
    """Pictures (n, 3, S, S) in [-1, 1] by the name of their column."""
    prompts = {"caption": given.captions}
    if pipe.config.condition.classes:
        prompts["class"] = given.label.tolist()
    pictures = {
        name: to_signed(generate_all(pipe, given.maps, some, arguments.sampling, name))
        for name, some in prompts.items()
    }
    tokenizer = pipe.frozen.tokenizer
    reconstructed = [tokenizer.decode(tokenizer.encode(x)) for x in given.images.split(BATCH)]
    return pictures | {
        "another": given.images.roll(1, 0),
        "tokenizer": torch.cat(reconstructed),
        "original": given.images,
    }


def control_figures(maps: ControlMaps, given: Conditions, images: Tensor) -> dict[str, float]:
    """Each metric between the control maps and maps detected in the pictures."""
    drawn = maps(to_bytes(images), given.kinds)[:, 0] / 255
    expected = given.maps[:, 0] / 255
    figures = {}
    for kind, (name, measure) in MEASURES.items():
        rows = [i for i, other in enumerate(given.kinds) if other == kind]
        figures[name] = float(measure(drawn[rows], expected[rows]).mean())
    return figures


def object_figures(
    classifier: ObjectClassifier, given: Conditions, images: Tensor
) -> dict[str, float]:
    """Objects that the classifier finds in the boxes they had in the original, in percent."""
    return {
        "main object, %": 100 * accuracy(classifier, images, given.main),
        "all objects, %": 100 * accuracy(classifier, images, given.objects),
    }


def summary(features: Features, images: Tensor) -> Tensor:
    """(n, 3, S, S) -> (n, C): the mean of each channel of the frozen encoder."""
    return torch.cat([features.encoder(part).mean((1, 2)) for part in images.split(BATCH)])


def to_bytes(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def draw_grid(
    given: Conditions, pictures: dict[str, Tensor], path: Path, count: int = 20, per_row: int = 4
) -> None:
    """Map, generated pictures and original of the first test examples; their words go to a text
    file beside it."""
    shown = [to_signed(given.maps), *(pictures[k] for k in ("caption", "class") if k in pictures)]
    strips = torch.cat([images[:count] for images in (*shown, given.images)], dim=-1)
    save_image(strips / 2 + 0.5, path, nrow=per_row, padding=4, pad_value=1.0)
    lines = [
        f"{i}: {kind}, {caption}; class {main.name}"
        for i, (kind, caption, (main,)) in enumerate(
            zip(given.kinds, given.captions, given.main, strict=True)
        )
    ]
    path.with_suffix(".txt").write_text("\n".join(lines[:count]) + "\n")


def control_table(figures: Figures) -> str:
    names = list(next(iter(figures.values())))
    width = max(map(len, figures))
    lines = [" " * width + "".join(f"{name:>11}" for name in names)]
    for row, values in figures.items():
        digits = 1 if "%" in row else 3
        lines.append(f"{row:<{width}}" + "".join(f"{values[n]:>11.{digits}f}" for n in names))
    return "\n".join(lines)
