"""One rule for every way in: orientation, profile, depth, transparency, masks and metadata."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from preprocessors import PREPROCESSORS, preprocess
from preprocessors.__main__ import main as preprocess_main
from scar.images import InputError, check_output, open_image, open_map, open_mask, save_image
from scar.pixels import SRGB, to_map, to_mask, to_rgb
from scar.studio.metadata import read_parameters, save_png
from scar.studio.painter import PREFIX, region_from
from train.data.samples import SampleError, decoded

GREEN = (70, 160, 60)  # nearer to Adobe RGB's green, a step of its 8 bits is 6 of red


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(width: int = 64, height: int = 48) -> Image.Image:
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunk(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with `chunks` behind its header."""
    data = encoded(image or picture())
    return data[:33] + b"".join(chunks) + data[33:]


def raw_png(side: int, depth: int, colour: int, row: bytes, *chunks: bytes) -> bytes:
    """A square PNG of equal rows."""
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * side))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + b"".join(chunks) + body + chunk(b"IEND", b"")


def adobe_rgb() -> bytes:
    """A matrix profile with Adobe RGB's primaries (adapted to D50) and its exponent 563 / 256."""

    def fixed(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"a\0" + bytes(78) + b"\0\0",
        b"wtpt": fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": fixed(0.60974, 0.31111, 0.01947),
        b"gXYZ": fixed(0.20528, 0.62567, 0.06087),
        b"bXYZ": fixed(0.14919, 0.06322, 0.74457),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, data, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body
    header = bytearray(128)
    header[8:12], header[12:24], header[36:40] = b"\x02\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    header[68:80] = fixed(0.9642, 1.0, 0.8249)[8:]
    header[:4] = struct.pack(">I", 128 + len(table) + len(data))
    return bytes(header) + table + data


def in_adobe_rgb() -> Image.Image:
    """`GREEN` in the numbers of Adobe RGB."""
    return ImageCms.profileToProfile(
        Image.new("RGB", (32, 32), GREEN),
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(BytesIO(adobe_rgb())),
    )


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", quality=95, exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        oriented(),
        encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 90))),
        encoded(picture().convert("P"), transparency=3),
        encoded(in_adobe_rgb(), "JPEG", quality=95, icc_profile=adobe_rgb()),
        encoded(picture().convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)),
    ],
    ids=["orientation", "alpha", "palette", "profile", "cmyk", "16 bits"],
)
def test_every_way_in_gives_the_same_pixels(data, tmp_path):
    expected = open_image(data)
    path = tmp_path / "in.png"
    path.write_bytes(data)
    assert to_rgb(Image.open(path)).tobytes() == expected.tobytes()
    assert decoded(data).tobytes() == decoded(str(path)).tobytes() == expected.tobytes()
    black = to_map(Image.open(path))
    assert (
        open_map(data).tobytes()
        == black.tobytes()
        == preprocess("none", Image.open(path)).tobytes()
    )
    if expected.getextrema() == black.getextrema():
        assert black.tobytes() == expected.tobytes()
    edges = preprocess("canny", expected).tobytes()
    assert preprocess("canny", Image.open(path)).tobytes() == edges
    assert preprocess_main(["canny", str(path), str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").tobytes() == edges


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_colour_profile_is_applied(format):
    options = {} if format == "PNG" else {"quality": 100}
    stored = in_adobe_rgb()
    assert np.abs(np.subtract(stored.getpixel((5, 5)), GREEN)).max() > 15
    data = encoded(stored, format, icc_profile=adobe_rgb(), **options)
    for image in (open_image(data), decoded(data), to_rgb(Image.open(BytesIO(data)))):
        assert np.abs(np.subtract(image.getpixel((5, 5)), GREEN)).max() <= 2
        assert image.info == {}


def test_a_profile_is_applied_under_transparency_and_in_grey():
    image = in_adobe_rgb().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 10, 32))
    image = open_image(encoded(image, icc_profile=adobe_rgb()))
    assert image.getpixel((2, 2)) == (255, 255, 255)
    assert np.abs(np.subtract(image.getpixel((20, 2)), GREEN)).max() <= 2


@pytest.mark.parametrize("profile", [b"no profile", bytes(200), SRGB[:300]])
def test_a_broken_profile_or_one_of_other_colours_is_ignored(profile):
    assert open_image(encoded(picture(), icc_profile=profile)).tobytes() == picture().tobytes()
    grey = picture().convert("L")
    assert open_image(encoded(grey, icc_profile=adobe_rgb())).tobytes() == to_rgb(grey).tobytes()


def ramp(kind: type, full: float) -> Image.Image:
    values = np.linspace(0, full, 1024).reshape(32, 32)
    return Image.fromarray(values.astype(kind))


@pytest.mark.parametrize(
    "image",
    [
        ramp(np.uint8, 255), ramp(np.int32, 255), ramp(np.int32, 65535), ramp(np.int32, 2**31 - 1),
        ramp(np.uint16, 65535), ramp(np.float32, 1), ramp(np.float32, 255),
        ramp(np.float32, 65535), ramp(np.uint8, 255).convert("LA"),
        ramp(np.uint8, 255).convert("RGB").convert("CMYK"), ramp(np.uint8, 255).convert("YCbCr"),
        ramp(np.uint8, 255).convert("RGB").convert("HSV"),
        ramp(np.uint8, 255).convert("RGB").convert("LAB"), ramp(np.uint8, 255).convert("RGBX"),
        ramp(np.uint8, 255).convert("RGBA").convert("RGBa"), ramp(np.uint8, 255).convert("P"),
        ramp(np.uint8, 255).convert("LA").convert("La"), ramp(np.uint8, 255).convert("PA"),
    ],
    ids=lambda image: image.mode,
)  # fmt: skip
def test_samples_of_every_mode_fill_the_range(image):
    expected = np.linspace(0, 255, 1024).reshape(32, 32)
    for convert in (to_rgb, to_map):
        values = np.asarray(convert(image)).astype(float)
        assert values.shape == (32, 32, 3)
        assert np.abs(values - expected[..., None]).max() <= 3
    white = np.asarray(to_mask(image))
    assert set(np.unique(white)) == {0, 255}
    assert (white == np.where(expected > 127.5, 255, 0)).mean() > 0.98


def test_values_that_are_not_finite_count_as_black():
    values = np.full((20, 20), np.nan, np.float32)
    values[:, 10:] = 1
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0] * 10 + [255] * 10


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear"),
    [
        (1, 0, b"\x0f\xff", ">H:1"), (2, 0, b"\x55\x55\xaa\xaa", ">H:2"),
        (4, 0, b"\x55" * 4 + b"\x99" * 4, ">H:9"), (8, 0, b"\x07" * 8 + b"\x09" * 8, ">H:9"),
        (16, 0, b"\x01\x02" * 8 + b"\x01\x03" * 8, ">H:259"),
        (8, 2, b"\x01\x02\x03" * 8 + b"\x01\x02\x04" * 8, ">HHH:1,2,4"),
        (16, 2, b"\x01\x09\x02\x09\x03\x09" * 8 + b"\xf1\x09\x02\x09\x03\x09" * 8,
         ">HHH:61705,521,777"),
    ],
)  # fmt: skip
def test_the_transparent_value_of_a_png_counts_at_every_depth(depth, colour, row, clear):
    layout, values = clear.split(":")
    clear = chunk(b"tRNS", struct.pack(layout, *map(int, values.split(","))))
    data = raw_png(16, depth, colour, row, clear)
    image = open_image(data)
    assert image.getpixel((12, 3)) == (255, 255, 255) != image.getpixel((2, 3))
    assert decoded(data).tobytes() == image.tobytes()
    assert open_map(data).getpixel((12, 3)) == (0, 0, 0)
    mask = open_mask(data)
    assert (mask.getpixel((2, 3)), mask.getpixel((12, 3))) == (255, 0)


LONG = b"x" * 1_500_000


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(LONG)),
        chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(LONG)),
        chunk(b"iTXt", b"k\0\0\0\0\0" + LONG),
        chunk(b"tEXt", b"k\0" + LONG),
        chunk(b"iCCP", b"k\0\0" + zlib.compress(LONG)),
        chunk(b"iCCP", b"k\0\7abc"),
        chunk(b"iCCP", b"k"),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"tRNS", b"\0"),
        chunk(b"zTXt", b"k\0\0no zlib"),
        chunk(b"tEXt", b"k\0v", checksum=0),
    ],
    ids=lambda odd: odd[4:8].decode(),
)
def test_what_is_beside_the_pixels_does_not_decide_over_them(odd, tmp_path):
    data = with_chunk(odd)
    assert open_image(data).tobytes() == decoded(data).tobytes() == picture().tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = with_chunk(odd, chunk(b"eXIf", exif.tobytes()[6:]))
    assert open_image(turned).size == (48, 64)


def test_the_parameters_of_a_result_are_read_beside_a_long_text(tmp_path):
    path = save_png(picture(), {"software": "SCAR", "seed": 3}, tmp_path)
    data = path.read_bytes()
    long = chunk(b"zTXt", b"k\0\0" + zlib.compress(LONG))
    path.write_bytes(data[:33] + long + data[33:])
    assert read_parameters(path) == {"software": "SCAR", "seed": 3}
    compressed = PngImagePlugin.PngInfo()
    compressed.add_text("parameters", '{"software": "SCAR", "seed": 4}', zip=True)
    path.write_bytes(encoded(picture(), pnginfo=compressed))
    assert read_parameters(path)["seed"] == 4


def layer(colour: tuple[int, int, int, int] = (255, 255, 255, 255)) -> Image.Image:
    """A transparent layer with a square painted at the left."""
    image = Image.new("RGBA", (64, 48))
    image.paste(colour, (0, 0, 32, 48))
    return image


def left() -> Image.Image:
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    return mask


@pytest.mark.parametrize(
    "image",
    [
        left(), left().convert("1"), left().convert("RGB"), left().point(lambda v: v // 255),
        left().convert("RGB").convert("CMYK"), left().convert("P"),
        layer(), layer((0, 0, 0, 255)), layer((200, 30, 30, 255)),
        Image.merge("LA", [left(), Image.new("L", (64, 48), 255)]),
        Image.fromarray(np.asarray(left()).astype(np.uint16) * 257),
        Image.fromarray(np.where(np.asarray(left()), 65535, 20_000).astype(np.uint16)),
        Image.fromarray(np.asarray(left()).astype(np.int32) // 255),
        Image.fromarray(np.asarray(left()).astype(np.float32) / 255),
    ],
    ids=lambda image: image.mode,
)  # fmt: skip
def test_a_mask_of_any_kind_is_what_was_painted(image):
    assert to_mask(image).tobytes() == left().tobytes()
    if image.mode not in ("CMYK", "F"):  # PNG has neither
        assert open_mask(encoded(image)).tobytes() == left().tobytes()
    wide = to_mask(image, (256, 64))
    assert wide.size == (256, 64) and np.asarray(wide).mean() == pytest.approx(127.5, abs=2)


def test_a_mask_without_white_is_refused_but_an_unpainted_canvas_means_everywhere():
    with pytest.raises(InputError, match="black everywhere"):
        open_mask(encoded(Image.new("RGBA", (64, 48))))

    def painted(image: Image.Image) -> str:
        return PREFIX + base64.b64encode(encoded(image)).decode()

    assert region_from(painted(Image.new("RGBA", (64, 48)))) is None
    assert region_from(painted(layer())).tobytes() == left().tobytes()


def test_a_map_that_is_white_on_nothing_is_white_on_black(tmp_path):
    layer().save(tmp_path / "map.png")
    expected = left().convert("RGB").tobytes()
    for drawn in (
        open_map(tmp_path / "map.png"),
        to_map(layer()),
        preprocess("none", layer()),
        PREPROCESSORS["none"].open(tmp_path / "map.png"),
        decoded(encoded(layer()), convert=to_map),
    ):
        assert drawn.tobytes() == expected


@pytest.mark.parametrize("name", ["o.png", "o.jpg", "o.JPEG", "o.webp", "o"])
def test_the_ending_decides_the_format_and_results_carry_a_profile(name, tmp_path):
    save_image(picture(), tmp_path / name)
    saved = Image.open(tmp_path / name)
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    assert saved.format == formats.get((tmp_path / name).suffix.lower(), "PNG")
    profile = ImageCms.ImageCmsProfile(BytesIO(saved.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    again = np.asarray(open_image(tmp_path / name)).astype(float)
    assert np.abs(again - np.asarray(picture())).mean() < (0.01 if saved.format == "PNG" else 4)


def test_results_of_the_studio_carry_a_profile_and_open_as_they_were(tmp_path):
    path = save_png(picture(), {"seed": 1}, tmp_path)
    assert Image.open(path).info["icc_profile"] == SRGB
    assert open_image(path).tobytes() == picture().tobytes()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("none/o.png", "no folder"), ("o.xyz", "cannot be saved"), (".", "is a folder")],
)
def test_a_place_that_cannot_be_written_is_refused_beforehand(name, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        check_output(tmp_path / name)
    source = tmp_path / "in.png"
    picture().save(source)
    assert preprocess_main(["canny", str(source), str(tmp_path / name)]) == 1


def test_a_damaged_picture_is_refused_by_every_way_in():
    data = encoded(picture())[:100]
    with pytest.raises(InputError, match="damaged"):
        open_image(data)
    with pytest.raises(InputError, match="damaged"):
        to_rgb(Image.open(BytesIO(data)))
    with pytest.raises(SampleError, match="damaged"):
        decoded(data)
