"""Evaluation of edits on ToyScenes, whose targets and masks are exact.

An edit is intact if it is a success, keeps all other objects, and changes nothing else. It is local
if it leaves much of the picture as it is: all but those of place and weather. What the metrics
miss:

intact edits          what the three below all miss.
success               quality: a blur of the right colour and outline passes, in the features of an
                      encoder that the models themselves use. Of two edits in one sentence it does
                      not tell which is missing.
kept objects          objects that the finder does not tell in the original either, one of five,
                      more where it chooses among all 446; their exact look; where they are in their
                      box. An edit without any that it can tell counts as keeping all.
nothing else changed  what is smaller than 12 px of 128, or of the mean colour that was there, or
                      beside the edit; and all of an edit of place or weather.
background PSNR       where the error is: half an object lost costs less than a soft blur all over.
region                whether what is drawn inside is good. A region that is the whole picture has
                      full recall. Cells that it holds and the edit leaves alone count as wrong.
seconds               other machines, and what else this one does meanwhile.

And none of them speaks of photographs: test scenes are made as training scenes are, those of the
wild split with much that training never shows.

Columns beside the model's: the tokenizer's reconstruction of the target bounds what a picture drawn
as a whole can reach; the target is a perfect edit, the source none at all.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from scar import ScarPipeline
from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.sprites import sheet
from train.data.batch import to_signed
from train.evaluate.edit_metrics import (
    Bystanders,
    EditExamples,
    background_psnr,
    changed_elsewhere,
    compared,
    exact_outside,
    mean,
    new_recall,
    pick,
    recall,
    region_figures,
    share,
    successes,
)
from train.evaluate.generate import BATCH, Edits, edit_all, seconds_an_edit
from train.evaluate.metrics import Features, SpriteFinder, psnr

Figures = dict[str, dict[str, float]]  # row -> column -> value

REGIONS = {"auto": ("auto",), "none": ("none",), "both": ("auto", "none")}
HELD_OUT = {"": "nothing held out", "phrasing": "new phrasing", "pair": "new pair"}
HELD_OUT |= {"background": "new background"}


@torch.inference_mode()
def evaluate_edits(pipe: ScarPipeline, arguments: Namespace) -> Figures:
    """All figures of the editing task, by row and column; no value where a column has none."""
    scenes = load_scenes(pipe, arguments)
    features = Features(pipe.device)
    # Bystanders of the wild split come from the whole vocabulary.
    sprites = sheet() if arguments.split == "wild" else sheet()[: arguments.objects]
    finder = SpriteFinder(features, sprites.float().to(pipe.device) / 255)
    others = Bystanders(finder, scenes)
    tokens, reconstructed = reconstruct(pipe.frozen.tokenizer, scenes.target)
    columns, images = {}, {}
    for name in REGIONS[arguments.region]:
        region = None if name == "none" else name
        edits = edit_all(pipe, *given(scenes), region, arguments.sampling, f"edits, {name}")
        images[name] = to_signed(edits.images)
        columns[name] = picture_figures(features, finder, others, scenes, images[name])
        columns[name] |= edit_figures(pipe, scenes, edits, region, arguments)
        if not arguments.quick:
            columns[name] |= control_figures(
                pipe, features, scenes, images[name], region, arguments
            )
    references = {"tokenizer": reconstructed, "target": scenes.target, "source": scenes.source}
    for name, pictures in references.items():
        columns[name] = picture_figures(features, finder, others, scenes, pictures)
    columns["tokenizer"]["codes in use, %"] = (
        100 * len(tokens.unique()) / pipe.config.tokenizer.codebook_size
    )
    for name in images:
        columns[name]["new objects recalled, of the tokenizer's, %"] = 100 * share(
            *(columns[c]["new objects recalled, %"] for c in (name, "tokenizer"))
        )
    if arguments.grid:
        draw_grid(scenes, images, arguments.grid)
    return by_row(columns)


def load_scenes(pipe: ScarPipeline, arguments: Namespace) -> EditExamples:
    toy = ToyScenes(arguments.split, pipe.size, arguments.objects, device=pipe.device)
    raw = [toy.batch(range(i, min(i + BATCH, arguments.n))) for i in range(0, arguments.n, BATCH)]
    source, target = (
        to_signed(torch.cat([getattr(b, f) for b in raw])) for f in ("source", "target")
    )
    return EditExamples(raw, source, target, torch.cat([b.mask for b in raw]))


def given(scenes: EditExamples) -> tuple[Tensor, list[str]]:
    """Sources, uint8 (n, 3, S, S), and instructions."""
    return torch.cat([batch.source for batch in scenes.raw]), scenes.all("instruction")


def reconstruct(tokenizer: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (n, N) of images, and the images that they stand for."""
    tokens = [tokenizer.encode(part) for part in images.split(BATCH)]
    return torch.cat(tokens), torch.cat([tokenizer.decode(part) for part in tokens])


def picture_figures(
    features: Features,
    finder: SpriteFinder,
    others: Bystanders,
    scenes: EditExamples,
    output: Tensor,
) -> dict[str, float]:
    """Metrics of pictures (n, 3, S, S) in [-1, 1]."""
    local = scenes.local.cpu()
    success = successes(features, scenes, output).cpu()
    kept = others.kept(output)
    elsewhere = changed_elsewhere(output, scenes.source, scenes.mask).cpu() & local
    intact = success & ~elsewhere
    intact[others.row[~kept]] = False
    families, held_out = scenes.all("family"), scenes.all("held_out")
    background = background_psnr(output, scenes.source, scenes.mask).cpu()
    names = sorted(set(families))
    shares = {
        "intact edits, %": intact,
        "intact edits, local, %": intact[local],
        "edit success, %": success,
        "kept objects, local edits, %": kept[local[others.row]],
        "kept objects, all edits, %": kept,
        "nothing else changed, local edits, %": ~elsewhere[local],
        **{f"intact: {name}, %": intact[pick(families, name)] for name in names},
        **{f"success: {name}, %": success[pick(families, name)] for name in names},
        **{
            f"{title}, {label}, %": values[pick(held_out, key)]
            for title, values in (("intact", intact), ("success", success))
            for key, label in HELD_OUT.items()
            if any(held_out) and key in held_out
        },
    }
    return {
        **{name: 100 * mean(values) for name, values in shares.items()},
        "background PSNR at 128 px, local edits, median, dB": background[local].nanmedian().item(),
        "background PSNR at 128 px, local edits, mean, dB": mean(background[local]),
        "background PSNR at 128 px, all edits, median, dB": background.nanmedian().item(),
        "background PSNR at 128 px, all edits, mean, dB": mean(background),
        "PSNR to the target at 128 px, mean, dB": mean(
            psnr(compared(output), compared(scenes.target))
        ),
        "objects recalled, %": 100 * recall(finder, scenes, output),
        "new objects recalled, %": 100 * new_recall(finder, scenes, output),
        "examples": len(families),
        "other objects that can be told": len(kept),
    }


def edit_figures(
    pipe: ScarPipeline, scenes: EditExamples, edits: Edits, region: str | None, arguments: Namespace
) -> dict[str, float]:
    """Metrics of the region, the tokens drawn and the time of edits."""
    sources, instructions = given(scenes)
    # Where nothing was to change there is nothing to cover.
    local = scenes.local & scenes.mask.any(2).any(1)
    return {
        **region_figures(edits.region[local], scenes.mask[local]),
        "pixels outside the region are the source's, % of edits": 100
        * exact_outside(edits.images, sources, edits.region),
        "tokens drawn, %": 100 * edits.drawn,
        "seconds an edit": seconds_an_edit(pipe, sources, instructions, region, arguments.sampling),
    }


def control_figures(
    pipe: ScarPipeline,
    features: Features,
    scenes: EditExamples,
    output: Tensor,
    region: str | None,
    arguments: Namespace,
) -> dict[str, float]:
    """Whether the model listens and looks: edits by the next example's instruction, and of the
    previous example's picture."""
    sources, instructions = given(scenes)
    shuffled = instructions[1:] + instructions[:1]
    misled = edit_all(pipe, sources, shuffled, region, arguments.sampling, "other instructions")
    swapped = edit_all(
        pipe, sources.roll(1, 0), instructions, region, arguments.sampling, "other sources"
    )
    right, wrong = (
        mean(background_psnr(images, scenes.source, scenes.mask))
        for images in (output, to_signed(swapped.images))
    )
    misled_success = successes(features, scenes, to_signed(misled.images))
    return {
        "success with another instruction, %": 100 * mean(misled_success),
        "background PSNR lost with another source, dB": right - wrong,
    }


def by_row(columns: dict[str, dict[str, float]]) -> Figures:
    """Rows in the order of the longest column; values that are NaN are left out."""
    rows = dict.fromkeys(row for values in columns.values() for row in values)
    return {
        row: {
            column: round(values[row], 3)
            for column, values in columns.items()
            if row in values and values[row] == values[row]
        }
        for row in rows
    }


def edit_table(figures: Figures) -> str:
    """One line a row, one column a kind of picture, "-" where there is no value."""
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    width = max(map(len, figures))
    lines = [" " * width + "".join(f"{name:>11}" for name in names)]
    for row, values in figures.items():
        digits = 2 if "second" in row or "each" in row else 1
        shown = [f"{values[n]:.{digits}f}" if n in values else "-" for n in names]
        lines.append(f"{row:<{width}}" + "".join(f"{value:>11}" for value in shown))
    return "\n".join(lines)


def draw_grid(
    scenes: EditExamples, outputs: dict[str, Tensor], path: Path, count: int = 24, per_row: int = 4
) -> None:
    """Source, outputs and target of the first examples; the instructions go to a text file beside
    it."""
    strips = [images[:count] for images in (scenes.source, *outputs.values(), scenes.target)]
    save_image(torch.cat(strips, dim=-1) / 2 + 0.5, path, nrow=per_row, padding=0)
    lines = [f"{i}: {text}" for i, text in enumerate(scenes.all("instruction")[:count])]
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
