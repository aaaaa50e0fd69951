"""What the preprocessors draw, refuse and say about their weights; all offline."""

import hashlib
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from preprocessors import PREPROCESSORS, Status, WeightsError, preprocess, weights
from preprocessors.__main__ import main
from preprocessors.controlnet import detector_module
from scar.errors import InputError

LEARNED = ("depth", "hed", "sketch", "lineart")


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """A red disc on a blue and green gradient."""
    y, x = np.mgrid[:height, :width]
    green = (y * 255 / height).astype(np.uint8)
    rgb = np.stack([np.full_like(green, 30), green, 255 - green], -1)
    rgb[(x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2] = (220, 30, 20)
    return Image.fromarray(rgb)


def noise(side: int = 128) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def single_channel(drawn: Image.Image) -> np.ndarray:
    """The one channel of a map, after checking that it is one."""
    assert drawn.mode == "RGB"
    channels = np.asarray(drawn)
    assert (channels == channels[..., :1]).all()
    return channels[..., 0]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without any weights and without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SCAR_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    shutil.rmtree(tmp_path)  # MiDaS alone is half a gigabyte


@pytest.fixture
def publish(machine, monkeypatch):
    """Make `content` the published file called `name`, already in the Hub's cache."""

    def publish(name: str, content: object):
        pin = weights.DETECTOR_PINS[name]
        repo = "models--" + pin.repo.replace("/", "--")
        path = machine / "hub" / repo / "snapshots" / pin.revision / pin.file
        path.parent.mkdir(parents=True, exist_ok=True)
        save = save_file if path.suffix == ".safetensors" else torch.save
        save(content, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(weights.DETECTOR_PINS, name, replace(pin, sha256=digest))
        return path

    return publish


def random_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of the published ones, at half their size."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        fan_in = value[0].numel() if value.dim() > 1 else 1
        state[name] = (torch.randn(value.shape, generator=generator) / fan_in**0.5).half()
    return state


def hed_state() -> dict[str, torch.Tensor]:
    return random_state(detector_module("hed").ControlNetHED_Apache2())


# What every preprocessor promises.


def test_there_are_five_maps_and_none():
    assert list(PREPROCESSORS) == ["canny", "depth", "hed", "sketch", "lineart", "none"]
    for preprocessor in PREPROCESSORS.values():
        assert preprocessor.description.endswith(".") and len(preprocessor.description) <= 80
        for parameter in preprocessor.parameters.values():
            assert parameter.help


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_a_map_has_the_asked_size_and_is_the_same_every_time(name, machine):
    first, second = (preprocess(name, picture(), 192) for _ in range(2))
    assert first.mode == "RGB" and first.size == (192, 128)
    assert first.tobytes() == second.tobytes()
    assert preprocess(name, picture()).size == picture().size


def test_importing_loads_no_detector_library():
    heavy = ("torch", "controlnet_aux", "transformers", "timm", "mediapipe")
    code = f"import sys, preprocessors; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_none_returns_the_image_itself():
    assert preprocess("none", picture()).tobytes() == picture().tobytes()


# What never reaches a detector.


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (4, 2000), (15, 15), (16, 129)])
@pytest.mark.parametrize("name", PREPROCESSORS)
def test_strips_and_specks_are_refused(name, size):
    with pytest.raises(InputError, match="too (small|narrow)"):
        preprocess(name, Image.new("RGB", size))


@pytest.mark.parametrize("shape", [(32, 32, 2), (32, 32, 5), (0, 32, 3), (32, 32)])
def test_arrays_are_refused(shape):
    with pytest.raises(InputError, match="PIL.Image"):
        preprocess("canny", np.zeros(shape, np.uint16))


def test_floating_point_images_are_scaled_by_their_largest_value():
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    for full in (1, 255, 65535):
        drawn = np.asarray(preprocess("none", Image.fromarray(ramp * full)))
        assert np.abs(drawn[..., 0] - ramp * 255).max() <= 1


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr", "HSV", "I", "F", "LAB"]
)
def test_a_detector_only_sees_rgb_bytes(mode, monkeypatch):
    seen = []

    def detect(rgb, low, high):
        seen.append(rgb)
        return rgb[..., 0]

    canny = replace(PREPROCESSORS["canny"], detect=detect)
    monkeypatch.setitem(PREPROCESSORS, "canny", canny)
    preprocess("canny", Image.new(mode, (40, 24)))
    assert seen[0].dtype == np.uint8 and seen[0].shape == (24, 40, 3)


@pytest.mark.parametrize("size", [(512, 512), (512, 64), (64, 512), (1600, 900), (20, 16)])
def test_a_detector_works_on_a_bounded_picture(size, monkeypatch):
    seen = []

    def detect(rgb):
        seen.append(rgb.shape)
        return rgb[..., 0]

    hed = replace(PREPROCESSORS["hed"], detect=detect, weights=None)
    drawn = hed(Image.new("RGB", size), resolution=256)
    (height, width, _) = seen[0]
    assert height % 64 == width % 64 == 0
    assert 0.5 * 256**2 <= height * width <= 1.5 * 256**2
    assert drawn.size == size


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "pose"}, "no preprocessor 'pose'"),
        ({"backend": "gpu"}, "backend must be one of"),
        ({"size": 8}, "size must be from"),
        ({"low": 300}, "low .300. must not be above high"),
        ({"low": -1}, "low must be from 0 to 500"),
        ({"low": "100"}, "low must be of type int"),
        ({"low": True}, "low must be of type int"),
        ({"coarse": True}, "canny has no parameter 'coarse'; it has: low, high"),
    ],
)
def test_wrong_arguments_are_explained(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        preprocess(**{"name": "canny", "image": picture()} | arguments)


# Canny.


def test_canny_is_what_controlnet_aux_draws():
    image = picture(128, 128)
    expected = detector_module("canny").CannyDetector()(
        image, 80, 160, detect_resolution=128, image_resolution=128
    )
    drawn = preprocess("canny", image, low=80, high=160)
    assert drawn.tobytes() == expected.tobytes()
    assert set(np.unique(single_channel(drawn))) == {0, 255}


def test_canny_thresholds_matter():
    drawn = [single_channel(preprocess("canny", noise(), low=t, high=t)).mean() for t in (100, 450)]
    assert drawn[0] > drawn[1]


# The embedded stand-in.


@pytest.mark.parametrize("name", LEARNED)
def test_the_embedded_network_draws_what_has_no_weights(name, machine):
    status = PREPROCESSORS[name].status()
    assert (status.state, status.backend) == ("ready", "embedded")
    drawn = preprocess(name, picture(256, 256))
    assert drawn.tobytes() == preprocess(name, picture(256, 256), backend="embedded").tobytes()
    assert single_channel(drawn).std() > 5


@pytest.mark.parametrize("name", ["hed", "sketch", "lineart"])
def test_embedded_lines_follow_the_outline(name):
    y, x = np.mgrid[:256, :256]
    radius = np.hypot(x - 128, y - 128)
    lines = single_channel(preprocess(name, picture(256, 256), backend="embedded"))
    on, off = abs(radius - 64) < 3, (abs(radius - 64) > 12) & (radius < 120)
    assert lines[on].mean() > 4 * lines[off].mean()


def test_embedded_depth_puts_the_ground_in_front_of_the_sky():
    from scar.toyscenes.dataset import ToyScenes

    batch = ToyScenes("test", 128).batch(range(6))
    for pixels, exact in zip(batch.source, batch.source_depth.numpy(), strict=True):
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        drawn = single_channel(preprocess("depth", image, backend="embedded"))
        assert np.corrcoef(drawn.ravel(), exact.ravel())[0, 1] > 0.9


def test_a_missing_embedded_network_is_named(machine, monkeypatch):
    monkeypatch.setattr("preprocessors.embedded.FILE", machine / "embedded.safetensors")
    status = PREPROCESSORS["hed"].status("embedded")
    assert status.state == "missing" and "embedded.safetensors" in status.reason
    with pytest.raises(WeightsError, match="embedded.safetensors"):
        preprocess("hed", picture(), backend="embedded")
    with pytest.raises(WeightsError, match="ControlNetHED.pth|hed weights"):
        preprocess("hed", picture())


# The real detectors, with random weights in the published files' layouts.


@pytest.mark.parametrize(
    ("name", "file", "network", "wrap"),
    [
        ("hed", "hed", ("hed", "ControlNetHED_Apache2", ()), dict),
        ("lineart", "lineart", ("lineart", "Generator", (3, 1, 3)), dict),
        (
            "sketch",
            "pidinet",
            ("pidi", "pidinet", ()),
            lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        ),
    ],
)
def test_a_real_detector_loads_and_draws(name, file, network, wrap, publish, machine):
    module, constructor, arguments = network
    built = getattr(detector_module(module), constructor)(*arguments)
    original = publish(file, wrap(random_state(built)))
    assert PREPROCESSORS[name].status().backend == "real"
    assert PREPROCESSORS[name].status("embedded").backend == "embedded"
    first, second = (preprocess(name, noise(), resolution=64) for _ in range(2))
    assert first.size == (128, 128) and first.tobytes() == second.tobytes()
    assert first.tobytes() != preprocess(name, noise(), backend="embedded").tobytes()
    original.unlink()  # from now on the safetensors copy is enough
    assert PREPROCESSORS[name].status("real").state == "ready"
    assert set(weights.load(file)) == set(built.state_dict())


def test_coarse_lineart_has_weights_of_its_own(publish):
    state = random_state(detector_module("lineart").Generator(3, 1, 3))
    publish("lineart-coarse", state)
    assert PREPROCESSORS["lineart"].status("real").state == "missing"
    assert PREPROCESSORS["lineart"].status("real", coarse=True).state == "ready"
    single_channel(preprocess("lineart", noise(), backend="real", coarse=True, resolution=64))


def test_midas_loads_and_draws(publish):
    module = detector_module("midas.midas.dpt_depth")
    with warnings.catch_warnings(), torch.device("meta"):  # only names and shapes are needed
        warnings.simplefilter("ignore")
        network = module.DPTDepthModel(backbone="vitb_rn50_384")
    state = random_state(network)
    state["scratch.output_conv.4.weight"].abs_()  # or the last ReLU could leave nothing to see
    publish("midas", state)
    drawn = preprocess("depth", noise(), backend="real", model="midas", resolution=64)
    depth = single_channel(drawn)
    assert depth.max() > 245 and depth.min() < 10


def test_depth_anything_loads_and_draws(publish):
    from preprocessors.depth import depth_anything

    publish("depth-anything", random_state(depth_anything()))
    depth = single_channel(preprocess("depth", noise(), 64, backend="real", resolution=64))
    assert depth.max() > 245 and depth.min() < 10


# What is said, and refused, about weights.


@pytest.mark.parametrize("name", LEARNED)
def test_without_weights_or_network_the_real_detector_says_so(name, machine):
    status = PREPROCESSORS[name].status("real")
    assert status.state == "missing" and status.backend == "real"
    assert "not on this machine and HF_HUB_OFFLINE" in status.reason
    with pytest.raises(WeightsError, match="not on this machine.*or use the embedded backend") as e:
        preprocess(name, picture(), backend="real")
    assert "\n" not in str(e.value)


def test_a_download_in_progress_is_visible(machine, monkeypatch):
    seen = []

    def fetch(pin):
        seen.append(PREPROCESSORS["hed"].status("real"))
        raise WeightsError("no network")

    monkeypatch.setattr(weights, "_fetch", fetch)
    with pytest.raises(WeightsError):
        weights.download("hed")
    assert seen == [Status("downloading", "The hed weights (29 MB) are being downloaded.", "real")]
    assert PREPROCESSORS["hed"].status("real").state == "missing"


def test_a_missing_package_is_named(machine, monkeypatch):
    pin = replace(weights.DETECTOR_PINS["hed"], runtime="no_such_package")
    monkeypatch.setitem(weights.DETECTOR_PINS, "hed", pin)
    status = PREPROCESSORS["hed"].status("real")
    assert status.state == "missing" and "no_such_package is not installed" in status.reason


def test_a_file_with_another_hash_is_not_opened(publish):
    path = publish("hed", hed_state())
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        weights.load("hed")


def test_a_pickle_cannot_run_code(publish, machine):
    marker = machine / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    publish("hed", {"norm": Evil()})
    with pytest.raises(WeightsError, match="more than tensors"):
        preprocess("hed", picture(), backend="real", resolution=64)
    assert not marker.exists()


def test_weights_of_another_network_do_not_fit(publish):
    publish("hed", {"norm": torch.zeros(1, 3, 1, 1)})
    with pytest.raises(WeightsError, match="does not fit"):
        preprocess("hed", picture(), backend="real", resolution=64)


def test_a_damaged_copy_is_made_again(publish, machine):
    publish("hed", hed_state())
    good = {name: tensor.clone() for name, tensor in weights.load("hed").items()}
    (copy,) = (machine / "cache").glob("*.safetensors")
    damaged = bytearray(copy.read_bytes())
    damaged[-1] ^= 1
    copy.write_bytes(damaged)
    again = weights.load("hed")
    assert all(torch.equal(good[key], again[key]) for key in good)


def test_a_cache_that_cannot_be_written_is_named(publish, machine, monkeypatch):
    publish("hed", {"norm": torch.zeros(1)})
    (machine / "file").touch()
    monkeypatch.setenv("SCAR_CACHE", str(machine / "file" / "cache"))
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.download("hed")


@pytest.mark.parametrize("home", [None, "/proc/1/root/home"])  # none, and one of somebody else
def test_the_maps_need_no_home(home, monkeypatch):
    for name in ("SCAR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    for preprocessor in PREPROCESSORS.values():
        assert preprocessor.status().state == "ready"


# The command line.


def test_the_command_line_draws(tmp_path):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    picture().save(source)
    arguments = ["canny", str(source), str(target), "--low", "50", "--high", "90", "--size", "128"]
    assert main(arguments) == 0
    drawn = Image.open(target)
    assert drawn.tobytes() == preprocess("canny", picture(), 128, low=50, high=90).tobytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["canny", "no-such-file.png", "out.png"], "no readable file"),
        (["canny", "{source}", "out.xyz"], "cannot be saved as out.xyz"),
        (["canny", "{source}", "out.png", "--low", "400"], "must not be above"),
        (["hed", "{source}", "out.png", "--backend", "real"], "not on this machine"),
        (["download", "hed"], "HF_HUB_OFFLINE"),
        (["download", "pose"], "no weights 'pose'"),
    ],
)
def test_the_command_line_fails_in_one_sentence(arguments, sentence, machine, capsys):
    source = machine / "in.png"
    picture().save(source)
    assert main([argument.format(source=source) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_the_command_line_lists_who_draws_what(machine, capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PREPROCESSORS)
    assert "The embedded network stands in." in printed
