"""Published layouts and those that people make by hand: each opens, and trains three steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from helpers.datasets import (
    CPU,
    encoded,
    own_jsonl,
    pairs,
    picture,
    recipe,
    write_files,
    write_lines,
    write_members,
)
from helpers.recipes import RECIPES, tiny

from train.__main__ import train
from train.data.sources import open_reader, open_source
from train.objectives.build import build_objective
from train.objectives.scar import ScarObjective
from train.recipe import Recipe, change

pytestmark = pytest.mark.slow


def image(data: bytes) -> dict:
    return {"bytes": data, "path": "n01440764_1_n01440764.JPEG"}


def write_table(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def seed_unsplash(root: Path) -> dict:
    named = write_files(root / "images", pairs())
    write_lines(root / "annotations/split_0001.jsonl", named[:2])
    write_lines(root / "annotations/split_0002.jsonl", named[2:])
    write_lines(root / "annotations_GPT4V/split_0001.jsonl", named[:2])
    return {"folder": str(root / "annotations"), "images": str(root / "images")}


def instruct_pix2pix(root: Path) -> dict:
    rows = [
        {
            "original_prompt": "a field",
            "original_image": image(row["source_image"]),
            "edit_prompt": row["instruction"],
            "edited_prompt": "a sea",
            "edited_image": image(row["target_image"]),
        }
        for row in pairs()
    ]
    write_table(root / "data/train-00000-of-00001-0a1b2c.parquet", rows)
    return {}


def magic_brush(root: Path) -> dict:
    rows = [
        {
            "img_id": "7",
            "turn_index": 1,
            "source_img": image(row["source_image"]),
            "mask_img": image(row["source_image"]),
            "instruction": row["instruction"],
            "target_img": image(row["target_image"]),
        }
        for row in pairs()
    ]
    write_table(root / "data/train-00000-of-00001.parquet", rows)
    write_table(root / "data/dev-00000-of-00001.parquet", rows[:1])
    return {}


def own_csv(root: Path) -> dict:
    """As a German spreadsheet saves it: a mark in front, semicolons, a quoted line break."""
    with (root / "pairs.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["vorher", "nachher", "Anweisung"])
        for row in write_files(root, pairs()):
            writer.writerow([row["source_image"], row["target_image"], row["instruction"] + "\n"])
    columns = {"source_image": "vorher", "target_image": "nachher", "instruction": "Anweisung"}
    return {"columns": columns}


def own_folders(root: Path) -> dict:
    for i, row in enumerate(pairs(), 8):  # 8, 9, 10, 11: by number, not by letter
        for side in ("source", "target"):
            (root / side).mkdir(exist_ok=True)
            suffix = "JPG" if side == "source" else "png"
            (root / side / f"{i}.{suffix}").write_bytes(row[f"{side}_image"])
    (root / "instructions.txt").write_text("\n".join(row["instruction"] for row in pairs()))
    (root / "source/.DS_Store").touch()
    return {}


def own_saved(root: Path) -> dict:
    table = pyarrow.Table.from_pylist(pairs())
    (root / "train").mkdir()
    for name in ("data-00000-of-00001.arrow", "cache-1a2b.arrow"):
        with pyarrow.ipc.new_stream(str(root / "train" / name), table.schema) as stream:
            stream.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": None}
    (root / "train/state.json").write_text(json.dumps(state))
    (root / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return {}


EDITS = (
    seed_unsplash,
    instruct_pix2pix,
    magic_brush,
    own_csv,
    own_jsonl,
    own_folders,
    own_saved,
)


def captioned(count: int = 4) -> list[dict]:
    return [
        {
            "source": encoded(picture(i)),
            "prompt": f"caption {i}",
            "control_hed": encoded(picture(50 + i)),
        }
        for i in range(count)
    ]


def unicontrol(root: Path) -> dict:
    rows = write_files(root, captioned())
    for kind in ("hed", "canny"):
        named = [{k.replace("hed", kind): v for k, v in row.items()} for row in rows]
        name = f"aesthetics_plus_all_group_{kind}_all.json"
        write_lines(root / "json_files" / name, named)
    return {"folder": str(root / "json_files"), "images": str(root)}


def multigen_with_eval(root: Path) -> dict:
    for name, count in (("train/data/train-0", 4), ("eval/data/validation-0", 2)):
        rows = [{"image": image(row["source"]), "text": row["prompt"]} for row in captioned(count)]
        write_table(root / f"{name}.parquet", rows)
    return {"folder": str(root / "train"), "validation_folder": str(root / "eval")}


def imagenet_parquet(root: Path) -> dict:
    for split, label in (("train", 7), ("validation", 7), ("test", -1)):
        rows = [{"image": image(encoded(picture(i))), "label": label} for i in range(4)]
        write_table(root / f"data/{split}-00000-of-00001.parquet", rows)
    return {}


def imagenet_tar(root: Path) -> dict:
    rows = [{"jpg": encoded(picture(i)), "cls": b"7"} for i in range(4)]
    write_members(root / "imagenet1k-train-0000.tar", rows)
    return {}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def objectives(root) -> dict[str, ScarObjective]:
    """One for each way to say what is wanted; the networks are built once."""
    return {
        name: build_objective(tiny(RECIPES / f"{name}.yaml", root))
        for name in ("edit/seed_unsplash", "c2i/llamagen_canny")
    }


def three_steps(objective: ScarObjective, made: Recipe) -> list[float]:
    source = open_source(made, "train", CPU)
    optimizer = torch.optim.SGD(objective.trainable().parameters(), 1e-3)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        loss = sum(objective(source.batch(range(2 * step, 2 * step + 2)), step).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("write", EDITS, ids=lambda write: write.__name__)
def test_pairs_of_images_open_and_train(write, objectives, tmp_path):
    fields = {"folder": str(tmp_path), "control": ""} | write(tmp_path)
    made = change(recipe("seed-edit", tmp_path), **fields)
    reader = open_reader(made, "train")
    samples = [reader.read(i) for i in range(len(reader))]
    assert [sample.text for sample in samples] == [f"edit {i}" for i in range(4)]
    for i, sample in enumerate(samples):
        assert sample.source.tobytes() == picture(i).tobytes()
        assert sample.target.tobytes() == picture(100 + i).tobytes()
    assert all(loss > 0 for loss in three_steps(objectives["edit/seed_unsplash"], made))


@pytest.mark.parametrize("write", [unicontrol, multigen_with_eval], ids=lambda w: w.__name__)
def test_captioned_images_open_and_train(write, objectives, tmp_path):
    fields = {"folder": str(tmp_path), "control": "hed"} | write(tmp_path)
    made = change(recipe("multigen", tmp_path), **fields)
    reader = open_reader(made, "train")
    samples = [reader.read(i) for i in range(len(reader))]
    assert [sample.text for sample in samples] == [f"caption {i}" for i in range(4)]
    assert samples[2].target.tobytes() == picture(2).tobytes()
    if write is unicontrol:
        assert samples[2].source.tobytes() == picture(52).tobytes()
    else:
        assert len(open_reader(made, "validation")) == 2
    assert all(loss > 0 for loss in three_steps(objectives["edit/seed_unsplash"], made))


@pytest.mark.parametrize("write", [imagenet_parquet, imagenet_tar], ids=lambda w: w.__name__)
def test_tables_of_labelled_images_open_and_train(write, objectives, tmp_path):
    write(tmp_path)
    made = recipe("imagenet", tmp_path)
    assert open_source(made, "train", CPU).batch(range(4)).label.tolist() == [7] * 4
    assert all(loss > 0 for loss in three_steps(objectives["c2i/llamagen_canny"], made))
    with pytest.raises(ValueError, match="give these tables a column control_canny"):
        open_reader(change(made, controls=str(tmp_path)), "train")


def test_labels_that_the_model_has_not_are_bad_samples(tmp_path, caplog):
    rows = [{"image": image(encoded(picture(i))), "label": i * 999} for i in range(3)]
    write_table(tmp_path / "train.parquet", rows)
    labels = open_source(recipe("imagenet", tmp_path), "train", CPU).batch(range(3)).label
    assert set(labels.tolist()) <= {0, 999}
    assert "its label is 1998, not one of 0 to 999" in caplog.text


def test_two_folders_of_annotations_are_not_merged(tmp_path):
    seed_unsplash(tmp_path)
    with pytest.raises(ValueError, match="choose one, for example folder=.*annotations images="):
        open_reader(recipe("seed-edit", tmp_path), "train")


def test_images_that_are_elsewhere_or_packed_are_asked_for(tmp_path):
    fields = seed_unsplash(tmp_path)
    with pytest.raises(ValueError, match="say by images: FOLDER"):
        open_reader(recipe("seed-edit", fields["folder"]), "train")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/unsplash_images.tar.gz.part-aa").touch()
    with pytest.raises(ValueError, match="unpack unsplash_images.tar.gz.part-aa first"):
        open_reader(recipe("seed-edit", tmp_path / "packed"), "train")


def test_columns_name_roles_that_exist_and_columns_that_are_there(tmp_path):
    own_jsonl(tmp_path)
    with pytest.raises(ValueError, match="columns names caption; here there are source_image"):
        open_reader(recipe("seed-edit", tmp_path, columns={"caption": "edit"}), "train")
    with pytest.raises(ValueError, match="instruction missing; there is before, after, edit"):
        open_reader(recipe("seed-edit", tmp_path, columns={"instruction": "said"}), "train")


def test_instructions_go_by_name_or_by_number(tmp_path):
    own_folders(tmp_path)
    made = recipe("seed-edit", tmp_path)
    lines = [f"{name}.jpg\tsaid {name}" for name in (11, 8, 10, 9)]
    (tmp_path / "instructions.txt").write_text("\n".join(lines))
    reader = open_reader(made, "train")
    assert [reader.read(i).text for i in range(4)] == [f"said {i}" for i in (8, 9, 10, 11)]
    (tmp_path / "instructions.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="2 lines for 4 pairs"):
        open_reader(made, "train")
    (tmp_path / "target/8.png").unlink()
    with pytest.raises(ValueError, match="8 is not both in source/ and in target/"):
        open_reader(made, "train")


def test_a_map_of_another_kind_is_never_taken_for_the_one_asked_for(tmp_path):
    write_lines(tmp_path / "train.jsonl", write_files(tmp_path, captioned()))
    made = recipe("multigen", tmp_path, control="depth")
    assert open_reader(made, "train").read(0).source is None
    named = recipe("multigen", tmp_path, control="depth", columns={"control": "control_hed"})
    assert open_reader(named, "train").read(0).source.tobytes() == picture(50).tobytes()


def test_data_that_changed_are_not_resumed_unasked(root, tmp_path, capsys):
    own_jsonl(tmp_path)
    recipes = [
        tiny(
            RECIPES / "edit/seed_unsplash.yaml",
            root,
            folder=str(tmp_path),
            steps=steps,
            out=str(tmp_path / "out"),
        )
        for steps in (1, 2, 3)
    ]
    train(recipes[0])
    train(recipes[1])  # its own metrics.jsonl beside the data is none of them
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    said = "from 4 samples in 1 files to 5 samples .*data.allow_change=true"
    with pytest.raises(ValueError, match=said):
        train(recipes[2])
    assert train(change(recipes[2], allow_data_change=True))
    assert "going on in a new order" in capsys.readouterr().out
