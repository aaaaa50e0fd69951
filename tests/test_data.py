"""Readers on miniature data in the published layouts, and what happens to damaged samples."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from helpers.datasets import (
    CPU,
    encoded,
    pairs,
    picture,
    read,
    recipe,
    write_imagenet,
    write_jsonl,
    write_multigen,
    write_tar,
)
from PIL import Image

from train.data.__main__ import main
from train.data.batch import RawBatch
from train.data.order import epoch_order
from train.data.rows import open_rows
from train.data.sources import open_source


def same(a: RawBatch, b: RawBatch) -> bool:
    images = torch.equal(a.source, b.source) and torch.equal(a.target, b.target)
    return images and a.text == b.text and torch.equal(a.label, b.label)


def test_imagenet_crops_image_and_map_together(tmp_path):
    write_imagenet(tmp_path, controls="hed")
    made = recipe(
        "imagenet",
        tmp_path / "images",
        control="hed",
        controls=str(tmp_path / "maps"),
        enlarge=1.5,
        flip=0.5,
    )
    batch = read(made, range(8))
    assert batch.source.shape == batch.target.shape == (8, 3, 64, 64)
    assert batch.source.dtype == torch.uint8 and batch.mask.dtype == torch.bool
    assert sorted(batch.label.tolist()) == [0] * 4 + [1] * 4
    negative = 255 - batch.source.int()
    assert (negative - batch.target.int()).abs().max() <= 2  # resampling rounds


def test_imagenet_draws_maps_that_are_not_there(tmp_path):
    write_imagenet(tmp_path)
    batch = read(recipe("imagenet", tmp_path / "images", control="depth"))
    assert batch.source.float().std() > 1
    assert torch.equal(batch.source[:, 0], batch.source[:, 1])  # a map is grey
    with pytest.raises(ValueError, match="leave `controls` empty"):
        read(recipe("imagenet", tmp_path / "images", controls=str(tmp_path)))


def test_an_index_is_the_same_sample_whenever_it_is_asked_for(tmp_path):
    write_imagenet(tmp_path)
    made = recipe("imagenet", tmp_path / "images", enlarge=1.5, flip=0.5)
    source = open_source(made, "train", CPU)
    first = [source.batch(range(start, start + 2)) for start in (0, 2, 4, 6)]
    again = open_source(made, "train", CPU)
    assert all(same(again.batch(range(2 * i, 2 * i + 2)), first[i]) for i in (3, 1, 2, 0))
    assert not same(source.batch(range(8)), source.batch(range(8, 16)))  # another epoch
    other = recipe("imagenet", tmp_path / "images", enlarge=1.5, flip=0.5, seed=1)
    assert not same(read(other, range(8)), source.batch(range(8)))


def test_an_epoch_has_every_sample_once_and_reads_block_by_block():
    blocks = [range(i * 10, i * 10 + 10) for i in range(100)]
    order = epoch_order(blocks, seed=0, epoch=3)
    assert sorted(order) == list(range(1000))
    assert len({number // 10 for number in order[:80]}) == 8
    assert not np.array_equal(order, epoch_order(blocks, seed=0, epoch=4))
    assert np.array_equal(order, epoch_order(blocks, seed=0, epoch=3))


def test_validation_is_in_order_from_the_centre(tmp_path):
    write_imagenet(tmp_path)
    made = recipe("imagenet", tmp_path / "images", flip=1.0)
    batch = read(made, range(8), "validation")
    assert batch.label.tolist() == [0] * 4 + [1] * 4
    image = picture(0).resize((64, 64), Image.Resampling.LANCZOS, box=(8, 0, 40, 32))
    assert torch.equal(batch.target[0], torch.tensor(np.array(image)).permute(2, 0, 1))


def test_multigen_parquet(tmp_path):
    write_multigen(tmp_path / "data")
    assert len(open_rows(tmp_path, "train").blocks) == 4
    made = recipe("multigen", tmp_path, control="depth", fit="squash")
    batch = read(made, range(6))
    assert sorted(batch.text) == [f"caption {i}" for i in range(6)]
    assert set(batch.label.tolist()) == {-1}
    number = int(batch.text[0].split()[1])
    image = picture(number).resize((64, 64), Image.Resampling.BICUBIC)
    assert torch.equal(batch.target[0], torch.tensor(np.array(image)).permute(2, 0, 1))
    drawn = read(recipe("multigen", tmp_path, control="canny"))  # no such column
    assert set(drawn.source.unique().tolist()) <= {0, 255}
    with pytest.raises(ValueError, match="no validation files"):
        read(made, split="validation")


def test_multigen_jsonl_finds_the_map_beside_the_named_one(tmp_path):
    lines = []
    for i in range(3):
        for folder, shade in (("images", 200), ("control_hed", 90), ("control_canny", 10)):
            path = tmp_path / folder / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (shade, shade, shade)).save(path)
        named = {"image_path": f"images/{i}.png", "control_hed_path": f"control_hed/{i}.png"}
        lines.append(json.dumps(named | {"prompt": f"caption {i}"}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n\n")
    for control, shade in (("hed", 90), ("canny", 10)):
        batch = read(recipe("multigen", tmp_path, control=control), range(3))
        assert batch.source.unique().tolist() == [shade]
        assert batch.target.unique().tolist() == [200]


def write_arrow(root: Path) -> None:
    (root / "train").mkdir()
    table = pyarrow.Table.from_pylist(pairs())
    file = root / "train" / "data-00000-of-00001.arrow"
    with pyarrow.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    (root / "train" / "state.json").write_text('{"_indices_files": null}')


def write_parquet(root: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs()), root / "train-0.parquet")


def test_multigen_tar(tmp_path):
    rows = [
        {"image": encoded(picture(i)), "control_hed": encoded(picture(i)), "text": f"caption {i}"}
        for i in range(3)
    ]
    write_tar(tmp_path, rows)
    batch = read(recipe("multigen", tmp_path, control="hed"), range(3))
    assert sorted(batch.text) == [f"caption {i}" for i in range(3)]
    assert torch.equal(batch.source, batch.target)


@pytest.mark.parametrize("line", ["{not json", '"no columns"'])
def test_a_damaged_first_row_is_no_reason_to_stop(tmp_path, caplog, line):
    for i, row in enumerate(pairs(200)):
        for name in ("source_image", "target_image"):
            (tmp_path / f"{name}_{i}.png").write_bytes(row[name])
            row[name] = f"{name}_{i}.png"
        with (tmp_path / "train.jsonl").open("a") as file:
            file.write((json.dumps(row) if i else line) + "\n")
    batch = read(recipe("seed-edit", tmp_path, control=""), range(200))
    assert len(batch.text) == 200 and "train.jsonl row 0 was replaced: its row" in caplog.text


def test_a_shard_that_was_cut_short_is_named(tmp_path):
    write_tar(tmp_path)
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="train-000000.tar is damaged"):
        read(recipe("seed-edit", tmp_path, control=""))


@pytest.mark.parametrize("write", [write_jsonl, write_arrow, write_parquet, write_tar])
def test_seed_edit_is_the_same_in_every_layout(tmp_path, write):
    write(tmp_path)
    batch = read(recipe("seed-edit", tmp_path, control=""))
    assert sorted(batch.text) == [f"edit {i}" for i in range(4)]
    for row, text in enumerate(batch.text):
        number = int(text.split()[1])
        source, target = (picture(seed, (32, 32)) for seed in (number, 100 + number))
        assert _correlation(batch.source[row], source) > _correlation(batch.source[row], target)
        assert _correlation(batch.target[row], target) > _correlation(batch.target[row], source)


def _correlation(image: torch.Tensor, other: Image.Image) -> float:
    resized = np.array(other.resize((64, 64))).transpose(2, 0, 1).ravel()
    return float(np.corrcoef(image.numpy().ravel(), resized)[0, 1])


def test_a_damaged_sample_is_replaced_by_the_same_one_every_time(tmp_path, caplog):
    write_imagenet(tmp_path, per_class=100)
    (tmp_path / "images/train/n01440764/n01440764_7.JPEG").write_bytes(b"not an image")
    made = recipe("imagenet", tmp_path / "images", flip=0.5)
    with caplog.at_level(logging.WARNING, "train.data"):
        first = read(made, range(200))
    assert len(caplog.records) == 1
    assert "n01440764_7.JPEG was replaced: its image is damaged" in caplog.text
    assert len(first.text) == 200 and same(first, read(made, range(200)))


def test_more_than_one_percent_of_damage_stops_the_run(tmp_path):
    write_imagenet(tmp_path, per_class=50)
    for i in range(3):
        (tmp_path / f"images/train/n01443537/n01443537_{i}.JPEG").unlink()
        (tmp_path / f"images/train/n01443537/n01443537_{i}.JPEG").touch()
    with pytest.raises(ValueError, match="samples could not be read, more than 1%"):
        read(recipe("imagenet", tmp_path / "images"), range(100))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="no data folder"):
        read(recipe("seed-edit", tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="holds none of"):
        read(recipe("multigen", tmp_path))
    with pytest.raises(ValueError, match="has no folder train"):
        read(recipe("imagenet", tmp_path))
    with pytest.raises(ValueError, match="control must be one of canny"):
        read(recipe("imagenet", tmp_path, control="edges"))
    with pytest.raises(
        ValueError, match="data.kind must be toy, imagenet, multigen or seed-edit, not 'imagenett'"
    ):
        read(recipe("imagenett", tmp_path))
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="target_image, instruction missing; there is a"):
        read(recipe("seed-edit", tmp_path))
    (tmp_path / "train.jsonl").rename(tmp_path / "train.tar")
    with pytest.raises(ValueError, match="damaged or compressed"):
        read(recipe("seed-edit", tmp_path))


def test_check_prints_counts_samples_and_problems(tmp_path, capsys):
    write_imagenet(tmp_path)
    folder = str(tmp_path / "images")
    assert main(["check", "imagenet", folder]) == 0
    said = capsys.readouterr().out
    assert "8 samples" in said and "2 classes, n01440764 to n01443537" in said
    assert "image 48 x 32, condition drawn while training, class 0" in said
    (tmp_path / "images/val/n01440764/n01440764_2.JPEG").write_bytes(b"")
    assert main(["check", "imagenet", folder, "--split", "validation"]) == 1
    assert "n01440764/n01440764_2.JPEG: its image is" in capsys.readouterr().out
    assert main(["check", "seed-edit", str(tmp_path)]) == 1
    assert "error:" in capsys.readouterr().err
