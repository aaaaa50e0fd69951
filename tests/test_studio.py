"""The studio without a browser: sessions, views, metadata, the library and the examples."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from faults.fake_pipeline import FakePipeline, edited
from PIL import Image

from scar.images import InputError
from scar.studio import views, zero_gpu
from scar.studio.examples import load_scenes
from scar.studio.library import Library
from scar.studio.metadata import read_parameters, save_png
from scar.studio.session import (
    SAMPLING,
    WORKING_SIDE,
    Progress,
    Result,
    Settings,
    bounded,
    check_settings,
    run_edit,
    run_generate,
)


def picture(width=64, height=48):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def split(events):
    events = list(events)
    progress = [event for event in events if isinstance(event, Progress)]
    return progress, [event for event in events if isinstance(event, Result)]


def test_an_edit_reports_at_once_then_grows_then_ends():
    progress, results = split(run_edit(FakePipeline(), picture(), "make it red", Settings(seed=7)))
    assert progress[0].step == 0 and progress[0].image is None
    shown = [event for event in progress if event.image is not None]
    assert len(shown) >= 8
    assert [event.step for event in shown] == sorted(event.step for event in shown)
    assert shown[-1].step == shown[-1].total
    (result,) = results
    assert result.image.tobytes() == edited(picture(), "make it red", 7).tobytes()
    assert result.before.size == result.image.size == picture().size


def test_a_result_names_every_parameter_that_made_it():
    settings = Settings(seed=3, guidance=2.5, temperature=0.9, top_k=50, top_p=0.8)
    _, (result,) = split(run_edit(FakePipeline(), picture(), " make   it red ", settings))
    assert result.parameters == {
        "software": "SCAR",
        "task": "edit",
        "instruction": "make it red",
        "region": False,
        "seed": 3,
        "guidance": 2.5,
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.8,
        "paradigm": "next-token",
    }


def test_a_seed_repeats_and_no_seed_draws_one_that_repeats():
    pipe = FakePipeline()
    _, (drawn,) = split(run_edit(pipe, picture(), "make it red", Settings()))
    again = Settings(seed=drawn.parameters["seed"])
    _, (repeated,) = split(run_edit(pipe, picture(), "make it red", again))
    assert repeated.image.tobytes() == drawn.image.tobytes()


def test_variants_use_the_seeds_that_follow():
    _, results = split(run_edit(FakePipeline(), picture(), "red", Settings(seed=5, variants=3)))
    assert [result.parameters["seed"] for result in results] == [5, 6, 7]
    assert len({result.image.tobytes() for result in results}) == 3


def test_previews_can_be_switched_off_but_progress_stays():
    settings = Settings(seed=1, preview=False)
    progress, results = split(run_edit(FakePipeline(), picture(), "red", settings))
    assert all(event.image is None for event in progress)
    assert len(progress) >= 8 and len(results) == 1


def test_closing_a_run_stops_the_model():
    pipe = FakePipeline()
    events = run_edit(pipe, picture(), "red", Settings(seed=1))
    next(events), next(events)
    assert pipe.running == 1
    events.close()
    assert (pipe.running, pipe.finished, pipe.abandoned) == (0, 0, 1)


def test_a_black_region_means_everywhere_and_a_white_one_is_kept():
    pipe, source = FakePipeline(), picture()
    black = Image.new("L", (10, 10))
    _, (everywhere,) = split(run_edit(pipe, source, "red", Settings(seed=1), region=black))
    assert everywhere.parameters["region"] is False
    right = Image.new("L", source.size)
    right.paste(255, (32, 0, 64, 48))
    _, (half,) = split(run_edit(pipe, source, "red", Settings(seed=1), region=right))
    assert half.parameters["region"] is True
    left = (0, 0, 32, 48)
    assert half.image.crop(left).tobytes() == source.crop(left).tobytes()
    assert half.image.tobytes() != source.tobytes()


def test_generation_takes_a_sentence_or_a_class():
    for prompt in ("a cat on a beach", 1):
        settings = Settings(seed=2)
        drawing = {"control": "canny", "low": 90}
        _, (result,) = split(run_generate(FakePipeline(), picture(), prompt, settings, drawing))
        assert result.parameters["prompt"] == prompt
        assert result.parameters["control"] == "canny" and result.parameters["low"] == 90


@pytest.mark.parametrize("instruction", ["", "   ", None, 5, "long " * 100])
def test_a_useless_instruction_is_refused(instruction):
    with pytest.raises(InputError):
        next(run_edit(FakePipeline(), picture(), instruction, Settings()))


@pytest.mark.parametrize(
    "values",
    [
        {"guidance": math.nan},
        {"guidance": math.inf},
        {"guidance": -1},
        {"guidance": 1e9},
        {"guidance": "3"},
        {"variants": None},
        {"temperature": [1]},
        {"top_k": 1.5},
        {"top_p": 0},
        {"seed": -1},
        {"seed": 2**40},
        {"seed": True},
        {"variants": 100},
        {"steps": 3},
    ],
)
def test_settings_from_outside_are_checked(values):
    with pytest.raises(InputError) as refusal:
        check_settings(**values)
    assert str(refusal.value).endswith(".")


def test_good_settings_pass_with_their_types():
    settings = check_settings(seed=3.0, guidance=2, temperature=1, top_k=0, top_p=1, variants=2)
    assert settings == Settings(3, 2.0, 1.0, 0, 1.0, 2)
    assert isinstance(settings.seed, int) and isinstance(settings.guidance, float)


def test_what_is_left_open_is_what_the_model_likes_best():
    pipe = FakePipeline()
    pipe.defaults = SimpleNamespace(guidance=4.0, temperature=0.5, top_k=9, top_p=0.9)
    open_settings = check_settings(seed=1, top_k=3)
    _, (result,) = split(run_edit(pipe, picture(), "make it red", open_settings))
    assert {name: result.parameters[name] for name in SAMPLING} == {
        **vars(pipe.defaults),
        "top_k": 3,
    }


def test_a_large_picture_is_scaled_to_the_working_size():
    assert bounded(picture(2000, 500)).size == (WORKING_SIDE, WORKING_SIDE // 4)
    assert bounded(picture()).size == (64, 48)


def test_parameters_survive_a_png(tmp_path):
    parameters = {"software": "SCAR", "instruction": "把狗换成猫", "seed": 7, "guidance": 3.5}
    path = save_png(picture(), parameters, tmp_path)
    assert read_parameters(path) == parameters
    assert Image.open(path).tobytes() == picture().tobytes()
    other = save_png(picture(32, 32), parameters, tmp_path)
    assert other != path and Image.open(path).size == (64, 48)


def test_foreign_pictures_restore_nothing(tmp_path):
    plain = tmp_path / "plain.png"
    picture().save(plain)
    words = tmp_path / "words.png"
    words.write_text("not an image")
    foreign = save_png(picture(), {"software": "another"}, tmp_path)
    huge = save_png(picture(), {"software": "SCAR", "instruction": "x" * 10_000}, tmp_path)
    for path in (plain, words, foreign, huge, tmp_path / "missing.png"):
        assert read_parameters(path) is None


def test_words_of_a_visitor_cannot_become_markup():
    parameters = {"instruction": '<img src=x onerror="alert(1)">', "seed": 1}
    result = Result(picture(), picture(), parameters, 1.0, 64)
    for html in (
        views.stage_result(result),
        views.status_error(parameters["instruction"]),
        views.chips([parameters["instruction"]]),
        views.strip([("data:,", parameters["instruction"])]),
    ):
        assert "<img src=x" not in html and 'onerror="' not in html


def test_the_result_can_be_compared_by_keyboard_at_one_size():
    result = Result(picture(), picture(), {"instruction": "red", "seed": 1}, 1.0, 64)
    html = views.stage_result(result)
    assert 'type="range"' in html and "aria-label" in html
    assert html.count("<img") == html.count("alt=") == 2


def test_the_status_tells_step_speed_and_what_is_left():
    html = views.status_progress(Progress(None, 16, 64, 16, 2.0))
    for part in ("16 / 64", "8 tokens/s", "2.0 s", "6.0 s left", 'aria-valuenow="25"'):
        assert part in html


def test_the_library_loads_once_and_explains_what_it_cannot_load():
    calls = []

    def load():
        calls.append(1)
        return FakePipeline()

    def missing():
        raise FileNotFoundError("/secret/assets/model.safetensors is missing")

    library = Library({"good": load, "bad": missing})
    library.preload("good").join()
    assert library.is_loaded("good")
    assert library.get("good") is library.get("good") and len(calls) == 1
    with pytest.raises(InputError, match=r"model.safetensors is missing"):
        library.get("bad")
    assert "missing" in library.problem("bad") and "secret" not in library.problem("bad")
    assert library.problem("good") is None
    with pytest.raises(InputError, match="good, bad"):
        library.get("other")


def test_a_result_of_the_library_names_its_model():
    library = Library({"own": FakePipeline()})
    for events in (
        library.edit("own", picture(), "make it red", Settings(seed=1)),
        library.generate("own", picture(), "a cat", Settings(seed=1)),
    ):
        assert split(events)[1][0].parameters["model"] == "own"


@pytest.mark.parametrize(
    ("words", "options", "offline"),
    [
        ("offline", {}, False),
        ("may fetch from the Hub", {"remote": ["other"]}, False),
        ("offline", {"remote": ["own"]}, False),
        ("may fetch from the Hub", {"find": lambda name: FakePipeline()}, False),
        ("offline", {"find": lambda name: FakePipeline(), "remote": ["other"]}, True),
    ],
)
def test_the_badge_tells_model_device_and_whether_the_hub_may_be_asked(
    monkeypatch, words, options, offline
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    library = Library({"own": FakePipeline(), "other": lambda: FakePipeline()}, **options)
    badge = views.badge("own", library.get("own"), may_fetch=library.may_fetch)
    assert f"own · 128 px · cpu · {words}<" in badge


def test_scenes_come_from_their_list(tmp_path):
    assert load_scenes(tmp_path) == []
    picture().save(tmp_path / "one.png")
    entry = {"file": "one.png", "caption": "a meadow", "instructions": ["make it night"]}
    (tmp_path / "examples.json").write_text(json.dumps([entry]))
    (scene,) = load_scenes(tmp_path)
    assert scene.caption == "a meadow" and scene.instructions == ["make it night"]
    assert Image.open(scene.publish(tmp_path / "public")).tobytes() == picture().tobytes()


@pytest.fixture(scope="module", params=["next-token", "next-set"])
def real_pipe(request):
    """The real pipeline of the embedded family with random weights."""
    from scar.frozen import FrozenEncoders
    from scar.pipeline import ScarPipeline
    from scar.presets import PRESETS
    from scar.weights.checkpoint import build_model, build_tokenizer

    config = PRESETS[f"toy-{request.param}"]
    frozen = FrozenEncoders(config, build_tokenizer(config.tokenizer))
    return ScarPipeline(config, build_model(config), frozen)


def test_the_real_pipeline_runs_in_a_session(real_pipe):
    library = Library({"real": lambda: real_pipe})
    region = Image.new("L", (96, 64))
    region.paste(255, (48, 0, 96, 64))
    source = picture(96, 64)
    events = library.edit("real", source, "make it night", Settings(seed=1), region)
    progress, (result,) = split(events)
    assert len([event for event in progress if event.image is not None]) >= 4
    assert progress[-1].step == progress[-1].total
    assert result.image.size == source.size and result.tokens == real_pipe.total_tokens
    left = (0, 0, 48, 64)
    assert result.image.crop(left).tobytes() == source.crop(left).tobytes()
    again = library.edit("real", source, "make it night", Settings(seed=1), region)
    assert split(again)[1][0].image.tobytes() == result.image.tobytes()


def test_runs_never_overlap(monkeypatch):
    monkeypatch.setattr("scar.studio.library.PATIENCE", 0.01)
    library = Library({"one": FakePipeline(), "two": FakePipeline()})
    first = library.edit("one", picture(), "red", Settings(seed=1))
    next(first)
    with pytest.raises(InputError, match="busy"):
        next(library.edit("two", picture(), "red", Settings(seed=1)))
    first.close()
    assert split(library.edit("two", picture(), "red", Settings(seed=1)))[1]


def test_visitors_name_models_only_where_the_operator_lets_them():
    closed = Library({"own": FakePipeline()})
    with pytest.raises(InputError, match="no model called 'owner/name'; choose one of: own"):
        closed.get("owner/name")
    opened = Library({"own": FakePipeline()}, find=lambda name: FakePipeline(paradigm=name))
    assert opened.get(" owner/name ").paradigm == "owner/name"
    assert opened.names == ["own"]  # what one visitor named is not offered to the others


def test_of_the_models_visitors_named_the_last_stay_loaded():
    library = Library({"own": FakePipeline()}, find=lambda name: FakePipeline(paradigm=name))
    for name in ("own", "a/1", "a/2", "a/3"):
        library.get(name)
    assert [n for n in ("own", "a/1", "a/2", "a/3") if library.is_loaded(n)] == [
        "own",
        "a/2",
        "a/3",
    ]


def test_a_model_that_cannot_be_found_is_one_sentence_and_the_next_try_works():
    found = {}

    def find(name):
        if name not in found:
            raise OSError(f"nothing at /srv/secret/{name}")
        return found[name]

    library = Library({"own": FakePipeline()}, find=find)
    with pytest.raises(InputError, match="'new' cannot be loaded: nothing at new"):
        library.get("new")
    found["new"] = FakePipeline()
    assert library.get("new") is found["new"]


def test_a_lent_gpu_is_asked_for_as_long_as_the_tokens_take(monkeypatch):
    asked = []

    def lend(duration):
        def wrap(stream):
            def lent(*args, **options):
                asked.append(duration(*args, **options))
                yield from stream(*args, **options)

            return lent

        return wrap

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=lend))
    pipe = FakePipeline()
    library = Library({"own": pipe})
    _, (result,) = split(library.edit("own", picture(), "make it red", Settings(seed=7)))
    assert result.image.tobytes() == edited(picture(), "make it red", 7).tobytes()
    split(library.generate("own", picture(), "a cat", Settings(seed=7, variants=4)))
    one, four = (zero_gpu.LOADING + n * zero_gpu.PER_TOKEN * pipe.total_tokens for n in (1, 4))
    assert asked == [pytest.approx(min(s, zero_gpu.LONGEST)) for s in (one, four)]


def test_on_a_lent_gpu_nothing_runs_outside_of_the_worker(monkeypatch):
    """The main process loads the model; the device is touched inside of the lent call alone, as
    ZeroGPU's `spaces` asks."""
    worker = []

    def lend(duration):
        def wrap(stream):
            def lent(*args, **options):
                duration(*args, **options)  # in the main process
                worker.append(True)
                try:
                    yield from stream(*args, **options)
                finally:
                    worker.clear()

            return lent

        return wrap

    class OnDevice(FakePipeline):
        def _stream(self, *args, **options):
            assert worker, "the device was touched in the main process"
            yield from super()._stream(*args, **options)

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=lend))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    library = Library({"own": lambda: OnDevice()})
    library.preload("own").join()
    assert library.problem("own") is None and library.is_loaded("own")
    _, (result,) = split(library.edit("own", picture(), "make it red", Settings(seed=7)))
    assert result.image.tobytes() == edited(picture(), "make it red", 7).tobytes()
    library.edit("own", picture(), "make it red", Settings()).close()
    assert not library.is_busy and not worker
