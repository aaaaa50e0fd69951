"""Which files and rows are data, and how many of them are open at one time."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers.datasets import (
    encoded,
    pairs,
    picture,
    read,
    recipe,
    write_imagenet,
    write_jsonl,
    write_members,
    write_tar,
)

from train.data import formats
from train.data.__main__ import main
from train.data.files import is_leftover, list_files, split_of
from train.data.formats import KEPT_OPEN
from train.data.order import epoch_order
from train.data.rows import open_rows
from train.data.sources import open_reader
from train.loop import checkpoints

LEFTOVERS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "n01440764.bak")


def write_parquet(file: Path, count: int = 3, first: int = 0, group: int | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": b"", "text": f"caption {first + i}"} for i in range(count)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, group)


def texts(folder: Path, split: str = "train") -> list[str]:
    rows = open_rows(folder, split)
    return [rows[i]["text"] for i in range(len(rows))]


@pytest.mark.parametrize(
    "name",
    [*LEFTOVERS, "._x.jpg", ".hidden", "Thumbs.db", "cache-0a1b.arrow", "a.parquet~", "_SUCCESS"],
)
def test_leftovers_are_no_data(name):
    assert is_leftover(name)


@pytest.mark.parametrize("name", ["_DSC0001.JPG", "@me.jpg", "#1.png", "cache.parquet", "old.jpg"])
def test_odd_names_may_be_data(name):
    assert not is_leftover(name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00010.parquet", "train"),
        ("valentine-00000.parquet", "train"),
        ("validated/a.parquet", "train"),
        ("crash_test_dummies.parquet", "train"),
        ("train/test_prompts_removed.parquet", "train"),
        ("train.parquet/part-00000.snappy.parquet", "train"),
        ("imagenet1k-train-0000.tar", "train"),
        ("validation.jsonl", "validation"),
        ("dev-00000-of-00004-0a1b.parquet", "validation"),
        ("eval-0.parquet", "validation"),
        ("x/coco_val2017.tar", "validation"),
        ("validation_part1.parquet", "validation"),
        ("test-0.parquet", "test"),
    ],
)
def test_names_of_splits_are_words_and_not_beginnings(name, split):
    assert split_of(Path("data") / name, Path("data")) == split


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_beside_classes_move_no_label(tmp_path, capsys, name):
    write_imagenet(tmp_path)
    folder = tmp_path / "images"
    for split in ("train", "val"):
        (folder / split / name).mkdir()
        (folder / split / name / "copy.JPEG").write_bytes(encoded(picture(0)))
        (folder / split / "n01440764" / "._copy.JPEG").write_bytes(b"\0\5")
    assert read(recipe("imagenet", folder), range(8)).label.sort()[0].tolist() == [0] * 4 + [1] * 4
    assert main(["check", "imagenet", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.count(name) == 1 and "._copy.JPEG" in said and "2 classes" in said


def test_more_classes_than_the_model_has_are_named(tmp_path, capsys):
    write_imagenet(tmp_path)
    words = ["check", "imagenet", str(tmp_path / "images"), "model={condition: {classes: 1}}"]
    assert main(words) == 1
    assert "2 class folders and the model 1 classes; the last ones are n01443537" in (
        capsys.readouterr().err
    )


def test_a_flat_validation_folder_is_named(tmp_path):
    write_imagenet(tmp_path)
    for file in (tmp_path / "images/val").glob("*/*"):
        file.rename(tmp_path / "images/val" / file.name)
    for wnid in ("n01440764", "n01443537"):
        (tmp_path / "images/val" / wnid).rmdir()
    with pytest.raises(ValueError, match="val holds 8 images and no class folders"):
        open_reader(recipe("imagenet", tmp_path / "images"), "validation")


def test_maps_may_have_another_suffix(tmp_path):
    write_imagenet(tmp_path, controls="hed")
    for file in sorted((tmp_path / "maps").rglob("*.png")):
        file.rename(file.with_suffix(".jpg"))
    made = recipe("imagenet", tmp_path / "images", control="hed", controls=str(tmp_path / "maps"))
    batch = read(made, range(8))
    assert (255 - batch.source.int() - batch.target.int()).abs().max() <= 2


def test_links_are_followed_and_circles_are_not(tmp_path):
    write_parquet(tmp_path / "elsewhere/train-1.parquet", first=3)
    write_parquet(tmp_path / "data/a/train-0.parquet")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    assert texts(tmp_path / "data") == [f"caption {i}" for i in range(6)]


def test_a_saved_data_set_is_what_its_state_lists(tmp_path):
    listed = []
    for number, name in enumerate(("data-0.arrow", "data-1.arrow", "cache-ab.arrow", "tmp1.arrow")):
        table = pyarrow.table({"text": [f"caption {3 * number + i}" for i in range(3)]})
        with pyarrow.ipc.new_stream(str(tmp_path / name), table.schema) as stream:
            stream.write_table(table)
        listed += [{"filename": name}] if name.startswith("data") else []
    state = {"_data_files": listed, "_indices_files": None}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert texts(tmp_path) == [f"caption {i}" for i in range(6)]
    (tmp_path / "data-1.arrow").unlink()
    with pytest.raises(ValueError, match="lists data-1.arrow, which is not there"):
        open_rows(tmp_path, "train")


def test_another_table_beside_the_named_ones_hides_nothing(tmp_path, capsys):
    write_parquet(tmp_path / "train-0.parquet")
    (tmp_path / "metadata.jsonl").write_text('{"text": "no"}\n')
    (tmp_path / "validation.jsonl").write_text('{"text": "held"}\n')
    assert texts(tmp_path) == [f"caption {i}" for i in range(3)]
    assert texts(tmp_path, "validation") == ["held"]
    (tmp_path / "train.jsonl").write_text('{"text": "no"}\n')
    with pytest.raises(ValueError, match="both train"):
        open_rows(tmp_path, "train")


def test_a_spark_folder_is_opened_as_a_folder(tmp_path):
    write_parquet(tmp_path / "train.parquet/part-00000.snappy.parquet")
    (tmp_path / "train.parquet/_SUCCESS").touch()
    (tmp_path / "train.parquet/.part-00000.snappy.parquet.crc").touch()
    assert (
        texts(tmp_path) == texts(tmp_path / "train.parquet") == [f"caption {i}" for i in range(3)]
    )


@pytest.mark.parametrize("said", [float("nan"), ["a", "b"], {"a": 1}, None, 5, "\ud800"])
def test_what_is_no_text_is_a_bad_sample(tmp_path, said, caplog):
    write_jsonl(tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"instruction": said})
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    batch = read(recipe("seed-edit", tmp_path, control=""))
    assert set(batch.text) <= {"edit 0", "edit 2", "edit 3"}
    assert "train.jsonl row 1 was replaced: its instruction" in caplog.text


def test_members_of_tar_shards_give_text(tmp_path):
    rows = [row | {"instruction.txt": f"märk {i}".encode()} for i, row in enumerate(pairs())]
    for row in rows:
        del row["instruction"]
    write_members(tmp_path / "train-0.tar", rows)
    assert sorted(read(recipe("seed-edit", tmp_path)).text) == [f"märk {i}" for i in range(4)]


@pytest.mark.parametrize("member", [b"null", b"5", b"[1]", b"\xff"])
def test_a_member_that_is_no_mapping_costs_one_sample(tmp_path, member, caplog):
    rows = [
        {
            "source_image.png": row["source_image"],
            "target_image.png": row["target_image"],
            "json": json.dumps({"instruction": row["instruction"]}).encode(),
        }
        for row in pairs()
    ]
    rows[2]["json"] = member
    write_members(tmp_path / "train-0.tar", rows)
    assert set(read(recipe("seed-edit", tmp_path)).text) <= {"edit 0", "edit 1", "edit 3"}
    assert "train-0.tar row 2 was replaced: its row cannot be read" in caplog.text


@pytest.mark.parametrize("path", ["a\0b.png", "\udcff.png", "x" * 300, 7, ["a"], "."])
def test_a_path_that_is_none_costs_one_sample(tmp_path, path, caplog, capsys):
    write_jsonl(tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    lines[3] = json.dumps(json.loads(lines[3]) | {"source_image": path})
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    assert set(read(recipe("seed-edit", tmp_path)).text) <= {"edit 0", "edit 1", "edit 2"}
    assert "train.jsonl row 3 was replaced" in caplog.text
    assert main(["check", "seed-edit", str(tmp_path)]) == 1
    assert "4 samples read, 1 with problems" in capsys.readouterr().out


def test_one_bad_file_stops_no_small_set_however_often_it_comes(tmp_path):
    write_imagenet(tmp_path, per_class=10)
    (tmp_path / "images/train/n01443537/n01443537_1.JPEG").write_bytes(b"")
    assert len(read(recipe("imagenet", tmp_path / "images"), range(100)).text) == 100
    (tmp_path / "images/train/n01443537/n01443537_2.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match="2 of .* could not be read, more than 1%"):
        read(recipe("imagenet", tmp_path / "images"), range(20))


def test_copies_of_checkpoints_are_none(tmp_path):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, {}, {}, keep=2)
    for name in ("step-00000002.bak", "step-00000002 (1)", "step-2", "step-00000009x", "step-²"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000007").touch()
    assert checkpoints.steps(tmp_path) == [1, 2]
    assert checkpoints.newest(tmp_path).name == "step-00000002"
    (tmp_path / "step-00000001").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    (tmp_path / "step-00000001").symlink_to(tmp_path.parent / f"{tmp_path.name}-moved")
    checkpoints.save(tmp_path, 3, {}, {}, keep=2)
    assert checkpoints.steps(tmp_path) == [2, 3]
    assert (tmp_path / "step-00000002.bak").is_dir()


def test_many_files_need_few_handles(tmp_path, monkeypatch):
    for number in range(2 * KEPT_OPEN):
        write_parquet(tmp_path / f"train-{number:05d}.parquet", 2, first=2 * number)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + KEPT_OPEN + 8, limits[1]))
    try:
        assert sorted(texts(tmp_path)) == sorted(f"caption {i}" for i in range(4 * KEPT_OPEN))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_row_groups_in_memory_are_bounded_by_bytes(tmp_path, monkeypatch):
    table = pyarrow.table({"image": [os.urandom(10_000) for _ in range(64)], "text": ["a"] * 64})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet", 4)
    monkeypatch.setattr(formats, "CACHE_BYTES", 200_000)
    rows = open_rows(tmp_path, "train")
    assert rows.together == 2
    for i in range(64):
        assert rows[i]["text"] == "a"
        assert sum(group.nbytes for group in rows.cache.values()) == rows.held <= 200_000


def test_processes_read_different_row_groups():
    blocks = [range(i * 50, i * 50 + 50) for i in range(32)]
    for epoch in (0, 1):
        order = epoch_order(blocks, seed=0, epoch=epoch, batch=40)
        assert sorted(order) == list(range(1600))
        groups = [set() for _ in range(8)]
        for step in range(40):
            for rank in range(8):
                part = order[40 * step + 5 * rank : 40 * step + 5 * rank + 5]
                groups[rank] |= {int(number) // 50 for number in part}
        assert max(map(len, groups)) <= 14  # of 32; half of it would be perfect
    assert len(np.unique(epoch_order(blocks, 0, 0, batch=7))) == 1600


def test_a_set_without_validation_holds_some_out(tmp_path):
    write_imagenet(tmp_path, per_class=100)
    for file in sorted((tmp_path / "images/val").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (tmp_path / "images/val").rmdir()
    made = recipe("imagenet", tmp_path / "images")
    train, held = (open_reader(made, split) for split in ("train", "validation"))
    names = [[reader.name(i) for i in range(len(reader))] for reader in (train, held)]
    assert (len(train), len(held)) == (196, 4)
    assert len(set(names[0]) | set(names[1])) == 200
    assert [b.stop - b.start for b in train.blocks] == [196]
    assert open_reader(recipe("imagenet", tmp_path / "images", holdout=0.0), "train").blocks == [
        range(200)
    ]


def test_check_says_what_belongs_to_other_splits(tmp_path, capsys):
    write_tar(tmp_path)
    (tmp_path / "test-000000.tar").write_bytes((tmp_path / "train-000000.tar").read_bytes())
    assert main(["check", "seed-edit", str(tmp_path)]) == 0
    assert "left to other splits: test (1)" in capsys.readouterr().out


def test_listing_skips_by_name_and_counts(tmp_path):
    write_parquet(tmp_path / "train-0.parquet")
    (tmp_path / ".cache").mkdir()
    write_parquet(tmp_path / ".cache/train-1.parquet")
    listing = list_files(tmp_path)
    assert [file.name for file in listing.files] == ["train-0.parquet"]
    assert listing.skipped == {".cache": 1}
