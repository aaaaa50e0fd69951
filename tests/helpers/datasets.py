"""Miniature data sets in the published layouts."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from train.data.batch import RawBatch
from train.data.sources import open_source
from train.recipe import Recipe, make_recipe

CPU = torch.device("cpu")


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A smooth picture whose every crop differs from every other."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def recipe(data: str, folder: Path, **fields) -> Recipe:
    fields = {"size": 64, "workers": 2, "detector": "embedded", "control": "canny"} | fields
    model = {"tokenizer": {"image_size": fields["size"]}}
    start = {"objective": "scar", "preset": "llamagen-l-c2i", "model": model, "out": ""}
    return make_recipe(start | {"data": data, "folder": str(folder)} | fields)


def read(made: Recipe, indices=range(4), split: str = "train") -> RawBatch:
    return open_source(made, split, CPU).batch(indices)


def pairs(count: int = 4) -> list[dict]:
    return [
        {
            "source_image": encoded(picture(i)),
            "target_image": encoded(picture(100 + i)),
            "instruction": f"edit {i}",
        }
        for i in range(count)
    ]


def write_imagenet(root: Path, per_class: int = 4, controls: str = "") -> None:
    """A map is the negative of its image, so that a joint crop can be recognised."""
    for split in ("train", "val"):
        for c, wnid in enumerate(("n01440764", "n01443537")):
            for i in range(per_class):
                image = picture(1000 * c + i)
                path = root / "images" / split / wnid / f"{wnid}_{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(image))
                if controls:
                    path = root / "maps" / controls / split / wnid / f"{wnid}_{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image.point(lambda v: 255 - v).save(path)


def write_multigen(folder: Path, count: int = 6) -> None:
    folder.mkdir(parents=True)
    for start in range(0, count, 3):
        rows = [
            {
                "image": {"bytes": encoded(picture(i)), "path": None},
                "control_depth": {"bytes": encoded(picture(i).convert("L")), "path": None},
                "text": f"caption {i}",
            }
            for i in range(start, start + 3)
        ]
        name = f"train-{start:05d}-of-{count:05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name, 2)


def write_jsonl(root: Path) -> None:
    lines = []
    for i, row in enumerate(pairs()):
        for name in ("source_image", "target_image"):
            (root / f"{name}_{i}.png").write_bytes(row[name])
            row[name] = f"{name}_{i}.png"
        lines.append(json.dumps(row))
    (root / "train.jsonl").write_text("\n".join(lines))


def write_tar(root: Path, rows: list[dict] | None = None) -> None:
    with tarfile.open(root / "train-000000.tar", "w") as archive:
        for i, row in enumerate(rows or pairs()):
            images = {f"{name}.png": v for name, v in row.items() if isinstance(v, bytes)}
            said = {name: v for name, v in row.items() if isinstance(v, str)}
            for suffix, data in (images | {"json": json.dumps(said).encode()}).items():
                member = tarfile.TarInfo(f"part/{i:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_members(path: Path, rows: list[dict[str, bytes]]) -> None:
    """A WebDataset shard of rows: member suffix -> content; a column of bytes is a .png."""
    with tarfile.open(path, "w") as archive:
        for i, row in enumerate(rows):
            for suffix, data in row.items():
                suffix = suffix if "." in suffix or len(suffix) < 5 else f"{suffix}.png"
                member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_files(root: Path, rows: list[dict], suffix: str = ".png") -> list[dict]:
    """The images of rows as files, named in the rows instead."""
    named = []
    for i, row in enumerate(rows):
        for name, data in row.items():
            if isinstance(data, bytes):
                path = root / name / f"{i}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                row = row | {name: f"{name}/{i}{suffix}"}
        named.append(row)
    return named


def write_lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def own_jsonl(root: Path) -> dict:
    rows = [
        {"before": row["source_image"], "after": row["target_image"], "edit": row["instruction"]}
        for row in write_files(root, pairs())
    ]
    write_lines(root / "pairs.jsonl", rows)
    return {}
