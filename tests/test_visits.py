"""Visits to the studio without a browser: what a page would send, and what it would then show."""

import json
import re

import pytest
from faults.fake_pipeline import FakePipeline
from faults.serving import Visitor, file_data, served
from PIL import Image


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    models = {"first": FakePipeline(), "second": FakePipeline("next-set")}
    with served(models, tmp_path_factory.mktemp("assets")) as url:
        yield Visitor(url, "en")


def sliders(visitor):
    """The values of the sliders that tune a map."""
    drawing = visitor.event("control-kind", "change")["inputs"][2:]
    values = {c["id"]: c["props"].get("value") for c in visitor.config["components"]}
    return [values[number] for number in drawing]


def run_control(visitor, by, prompt, label=None):
    """Runs the Control tab on Canny edges from 77 on with seed 5; returns the file that is kept."""
    low, *others = sliders(visitor)
    assert low != 77
    sampling = [5, False, 2.0, 0.9, 7, 0.8, 1, True]
    visitor.outputs(visitor.event("control-by", "change"), [by, "first"])
    values = [visitor.picture(), "canny", 77, *others, by, prompt, label, "first", *sampling]
    begin = visitor.event("control-run", "click")
    visitor.outputs(begin, values)
    messages = map(json.dumps, visitor.send(visitor.after(begin), [*values, None]))
    found = [re.search(r'"path": "([^"]*scar-generate-5.png)"', each) for each in messages]
    return file_data(next(path[1] for path in found if path))


@pytest.mark.parametrize(("by", "prompt", "label"), [("Sentence", "a cat", None), ("Class", "", 2)])
def test_a_generated_picture_dropped_back_restores_its_settings(
    visitor, by, prompt, label, tmp_path
):
    file = run_control(visitor, by, prompt, label)
    (tmp_path / "result.png").write_bytes(visitor.read(file))
    parameters = json.loads(Image.open(tmp_path / "result.png").info["parameters"])
    assert parameters["model"] == "first" and parameters["low"] == 77
    dropped = file_data(visitor.upload((tmp_path / "result.png").read_bytes()))
    shown = visitor.updated(visitor.event("control-source", "upload"), [dropped, "first"])
    assert shown["control-kind"] == "canny" and shown["control-by"] == by
    assert (shown["control-prompt"], shown["control-class"]) == (prompt or None, label)
    assert (shown["control-seed"], shown["control-randomize"]) == (5, False)
    settings = [shown[f"control-{name}"] for name in ("guidance", "temperature", "top-k", "top-p")]
    assert settings == [2.0, 0.9, 7, 0.8]


def test_a_past_run_comes_back_with_the_map_it_was_made_from(visitor):
    run_control(visitor, "Sentence", "a dog")
    recall = visitor.event("control-history", "select")
    shown = visitor.updated(recall, [None, "first"], index=0)
    assert shown["control-kind"] == "none" and shown["control-prompt"] == "a dog"
    assert shown["control-seed"] == 5 and "after" in shown["control-stage"]
    shown_map = visitor.download(shown["control-source"])
    assert shown_map.getcolors(2) is not None  # edges: black and white


def test_a_foreign_picture_restores_nothing(visitor):
    upload = visitor.event("control-source", "upload")
    assert set(visitor.updated(upload, [visitor.picture(), "first"]).values()) == {None}


def test_choosing_a_model_to_compare_brings_its_guidance(visitor):
    chosen = visitor.event("compare-model-right", "change")
    shown = visitor.updated(chosen, ["second"])
    assert shown["compare-guidance-right"] == 3.0
    assert "second is ready" in shown["compare-status-right"]


def test_both_sides_of_a_comparison_tell_what_they_took(visitor):
    values = [visitor.picture(), "make it night", None, "first", "second", 2.0, 4.0]
    begin = visitor.event("compare-run", "click")
    visitor.outputs(begin, values)
    said = json.dumps(visitor.send(visitor.after(begin), values))
    for words in ("64 tokens", "tokens/s", "seed 0", "memory peak of the program"):
        assert said.count(words) >= 2, words
