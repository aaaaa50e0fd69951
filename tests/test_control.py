"""Control on ToyScenes: mixture of tasks, measures, classifier, training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import TINY
from PIL import Image
from skimage import metrics

from preprocessors import preprocess
from scar import ScarPipeline
from scar.__main__ import main as scar_main
from scar.toyscenes.dataset import ToyScenes
from scar.weights.checkpoint import build_tokenizer, load_config, save_tokenizer
from train.__main__ import train
from train.data.batch import to_signed
from train.data.sources import ToyEdits, open_source
from train.data.toy_tasks import CONTROLS, TASKS, ControlMaps, ToyTasks, main_object_views
from train.evaluate import __main__ as evaluate
from train.evaluate import control as evaluate_control
from train.evaluate.classifier import accuracy, open_classifier
from train.evaluate.control_metrics import edge_f1, frechet_distance, rmse, structural_similarity
from train.evaluate.metrics import Features
from train.recipe import load_recipe

pytestmark = pytest.mark.slow

RECIPES = Path("train/recipes")
CPU = torch.device("cpu")
MULTI = {"next-token": "toy/multi", "next-set": "toy/multi_next_set"}
TOKENIZER = {"next-token": "toy/tokenizer", "next-set": "toy/tokenizer_next_set"}
SMALL = ["objects=8", "steps=2", "batch_size=2", "save_every=2", "grid_every=0", "threads=1"]
SMALL += ["precision=fp32"]
TINY_CODES = [f"model.tokenizer.{k}={json.dumps(v)}" for k, v in TINY["tokenizer"].items()]
TINY_MODEL = [f"model.backbone={json.dumps(TINY['backbone'])}", *TINY_CODES]


def multi(*overrides: str):
    small = ["size=64", "model.tokenizer.image_size=64"]
    return load_recipe(RECIPES / "toy/multi.yaml", [*small, *overrides])


@pytest.fixture(scope="module")
def tasks() -> ToyTasks:
    return open_source(multi(), "train", CPU)


@pytest.fixture(scope="module")
def pictures():
    return main_object_views(ToyScenes("test", 128, 48).batch(range(5)))


@pytest.fixture(scope="module")
def maps() -> ControlMaps:
    return ControlMaps()


def test_tasks_and_kinds_come_in_the_recipes_shares(tasks):
    drawn = [tasks.draw(i) for i in range(4000)]
    names = [task for task, _ in drawn]
    counts = {name: names.count(name) / 4000 for name in TASKS}
    assert counts == pytest.approx({"edit": 0.6, "t2i": 0.2, "c2i": 0.2}, abs=0.03)
    kinds = [kind for _, kind in drawn]
    assert all(kinds.count(kind) == pytest.approx(800, abs=120) for kind in CONTROLS)
    other = ToyTasks(multi("seed=1"), "train", CPU)
    assert [other.draw(i) for i in range(20)] != drawn[:20]


def test_each_task_has_its_own_condition(tasks):
    indices = range(48)
    raw, scene = tasks.batch(indices), tasks.scenes.batch(indices)
    edits, shown = ToyEdits(multi(), "train", CPU).batch(indices), main_object_views(scene)
    seen = set()
    for row, (task, _) in enumerate(map(tasks.draw, indices)):
        seen.add(task)
        if task == "edit":
            assert raw.text[row] == scene.instruction[row] and raw.label[row] == -1
            for name in ("source", "target", "mask"):
                assert torch.equal(getattr(raw, name)[row], getattr(edits, name)[row])
            continue
        is_class = task == "c2i"
        assert raw.text[row] == ("" if is_class else shown.caption[row])
        assert raw.label[row] == (scene.label[row] if is_class else -1)
        assert torch.equal(raw.target[row], shown.images[row])
        x0, y0, x1, y1 = map(int, shown.main[row].box)
        assert raw.mask[row, y0:y1, x0:x1].all() and not raw.mask[row].all()
        red, green, blue = raw.source[row]
        assert torch.equal(red, green) and torch.equal(red, blue) and red.float().std() > 0
    assert seen == {"edit", "t2i", "c2i"}


def test_an_example_depends_on_its_index_alone(tasks):
    control = next(i for i in range(100) if tasks.draw(i)[0] == "t2i")
    alone, together = tasks.batch([control]), tasks.batch([0, control])
    assert torch.equal(alone.source[0], together.source[1])
    assert torch.equal(alone.target[0], together.target[1])
    assert alone.text[0] == together.text[1]


def test_the_picture_shows_the_object_that_the_label_names():
    scene = ToyScenes("train", 64, 48, families=["remove"]).batch(range(4))
    shown = main_object_views(scene)
    assert torch.equal(shown.images, scene.source) and shown.caption == scene.source_caption
    assert [o.sprite for o in shown.main] == scene.label.tolist()


@pytest.mark.parametrize("kind", CONTROLS)
def test_maps_are_those_of_the_preprocessors(maps, pictures, kind):
    image = pictures.images[CONTROLS.index(kind)]
    drawn = maps(image[None], [kind])[0]
    picture = Image.fromarray(image.movedim(0, -1).numpy())
    backend = "real" if kind == "canny" else "embedded"
    wanted = np.asarray(preprocess(kind, picture, backend=backend)).astype(float)
    difference = np.abs(drawn.movedim(0, -1).numpy() - wanted)
    assert difference.mean() < (1e-9 if kind == "canny" else 3)
    assert wanted.std() > 5


def test_known_depth_is_used_exactly(maps, pictures):
    drawn = maps(pictures.images[:1], ["depth"], pictures.depth[:1])[0, 0] / 255
    depth = pictures.depth[0]
    wanted = (depth - depth.min()) / (depth.max() - depth.min())
    assert (drawn - wanted).abs().max() < 0.003


def test_impossible_mixtures_are_refused():
    for overrides, message in (
        (["tasks={edits: 1}"], "unknown tasks"),
        (["tasks={edit: 0, t2i: 0}"], "shares"),
        (["model.condition.classes=4"], "a class for each of the 48"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(multi(*overrides), "train", CPU)


def test_measures_of_equal_and_unequal_maps():
    torch.manual_seed(0)
    a, b = torch.rand(2, 32, 32), torch.rand(2, 32, 32)
    for measure, best in ((edge_f1, 1), (rmse, 0), (structural_similarity, 1)):
        assert measure(a, a).tolist() == pytest.approx([best, best], abs=1e-5)
        assert (measure(a, b) - best).abs().min() > 0.3
    blank = torch.zeros(1, 8, 8)
    two, one = blank.clone(), blank.clone()
    two[0, 0, :2], one[0, 0, 0] = 1, 1
    assert edge_f1(two, one).item() == pytest.approx(2 / 3)
    assert edge_f1(blank, blank).item() == 1 and edge_f1(blank, one).item() == 0
    assert rmse(blank, blank + 0.5).item() == pytest.approx(0.5)
    grey, dark = torch.full((1, 16, 16), 0.5), torch.full((1, 16, 16), 0.25)
    known = (0.25 + 1e-4) / (0.3125 + 1e-4)  # (2ab + c) / (a^2 + b^2 + c)
    assert structural_similarity(grey, dark).item() == pytest.approx(known, abs=1e-4)


def test_structural_similarity_agrees_with_scikit_image():
    torch.manual_seed(0)
    a = torch.rand(1, 40, 40)
    b = (a + 0.2 * torch.randn(1, 40, 40)).clamp(0, 1)
    _, full = metrics.structural_similarity(
        a[0].double().numpy(),
        b[0].double().numpy(),
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    assert structural_similarity(a, b).item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)


def test_frechet_distance_of_known_distributions():
    torch.manual_seed(0)
    a = torch.randn(4000, 3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(12, rel=1e-6)
    # Of N(0, 1) and N(0, 9) in each direction: (3 - 1)^2.
    a = a - a.mean(0)
    assert frechet_distance(a, 3 * a) == pytest.approx(4 * a.var(0).sum().item(), rel=1e-5)


@pytest.fixture(scope="module")
def few_examples(tmp_path_factory):
    """The classifier's own training, short, in a folder of its own."""
    folder = tmp_path_factory.mktemp("classifier")

    def opened(features: Features, size: int, objects: int):
        return open_classifier(features, size, objects, examples=60, cache=folder)

    return opened


def test_the_classifier_names_objects_and_is_kept(few_examples):
    features = Features()
    classifier = few_examples(features, 128, 8)
    scenes = main_object_views(ToyScenes("validation", 128, 8).batch(range(20)))
    images = to_signed(scenes.images)
    assert accuracy(classifier, images, scenes.objects) > 0.9
    assert accuracy(classifier, images.roll(1, 0), scenes.objects) < 0.6
    again = few_examples(features, 128, 8)
    assert torch.equal(again.linear.weight, classifier.linear.weight)


@pytest.fixture(scope="module", params=MULTI)
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    """A tiny model of each paradigm after two steps of the mixture."""
    paradigm, root = request.param, tmp_path_factory.mktemp(request.param)
    recipe = load_recipe(RECIPES / f"{MULTI[paradigm]}.yaml", [*SMALL, *TINY_MODEL])
    torch.manual_seed(0)
    tokenizer = build_tokenizer(recipe.model.tokenizer)
    save_tokenizer(tokenizer, root / "tokenizer")
    overrides = [
        *(*SMALL, *TINY_MODEL),
        *(f"tokenizer={root / 'tokenizer'}", f"out={root / 'run'}", "init=''"),
        "tasks={edit: 0.2, t2i: 0.4, c2i: 0.4}",
    ]
    return paradigm, train(load_recipe(RECIPES / f"{MULTI[paradigm]}.yaml", overrides))


def test_the_trained_folder_names_its_classes(trained):
    config = load_config(trained[1])
    assert len(config.class_names) == config.condition.classes == 48
    assert list(config.class_names) == ToyScenes(size=64, objects=48).names


def test_the_trained_folder_generates_by_class_and_caption(trained, tmp_path, capsys):
    paradigm, folder = trained
    pipe = ScarPipeline.from_pretrained(folder, device="cpu")
    assert pipe.paradigm == paradigm
    assert len(pipe.classes) == 48 and pipe.classes[:2] == ["cat", "car"]
    image = Image.effect_noise((96, 64), 80)
    control_map = preprocess("canny", image)
    assert pipe.generate(control_map, 17, seed=0).image.size == (96, 64)
    control_map.save(tmp_path / "map.png")
    for prompt in ("17", "a cat on a beach"):
        words = ["generate", str(tmp_path / "map.png"), prompt, "--model", str(folder)]
        assert scar_main([*words, "--seed", "3", "-o", str(tmp_path / "out.png")]) == 0
        assert Image.open(tmp_path / "out.png").size == (96, 64)
    assert "seed 3" in capsys.readouterr().out


def test_evaluation_prints_every_figure(trained, few_examples, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_control, "open_classifier", few_examples)
    out, grid = tmp_path / "figures.json", tmp_path / "grid.png"
    command = ["toy_control", "--model", str(trained[1]), "--objects", "8", "--n", "5"]
    command += ["--null", "joint", "--out", str(out), "--grid", str(grid)]
    assert evaluate.main(command) == 0
    figures = json.loads(out.read_text())
    rows = [name for name, _ in evaluate_control.MEASURES.values()]
    assert list(figures) == [*rows, "main object, %", "all objects, %", "Frechet distance"]
    printed = capsys.readouterr().out
    for row, values in figures.items():
        assert list(values) == ["caption", "class", "another", "tokenizer", "original"]
        assert row in printed
    for row in rows:
        assert figures[row]["original"] == pytest.approx(0 if "RMSE" in row else 1, abs=1e-3)
        assert figures[row]["another"] != pytest.approx(figures[row]["original"], abs=0.01)
    assert figures["main object, %"]["original"] > 80 > figures["main object, %"]["another"]
    assert figures["Frechet distance"]["original"] < 1e-3
    assert len(grid.with_suffix(".txt").read_text().splitlines()) == 5
    assert Image.open(grid).width > 4 * 4 * 128


def test_more_objects_than_classes_are_refused(trained, capsys):
    assert evaluate.main(["toy_control", "--model", str(trained[1]), "--objects", "60"]) == 1
    assert "--objects 48" in capsys.readouterr().err


def test_the_next_set_tokenizer_recipe_trains(tmp_path):
    overrides = [*SMALL, *TINY_CODES, f"out={tmp_path}", "patch_start=0", "batch_size=1"]
    recipe = load_recipe(RECIPES / f"{TOKENIZER['next-set']}.yaml", overrides)
    assert (train(recipe) / "tokenizer-00001-of-00001.safetensors").is_file()
