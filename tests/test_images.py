"""What `scar.images` accepts, refuses and turns upright."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from scar.images import MAX_BYTES, InputError, crop_back, fit_square, open_image


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A smooth gradient, different in every corner."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


def test_opens_a_path_bytes_and_a_file(tmp_path):
    data = encoded(picture())
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (path, str(path), data, BytesIO(data)):
        assert difference(open_image(source), picture()) == 0


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_content_decides_the_format_not_the_name(tmp_path, format):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(picture(), format))
    image = open_image(path)
    assert image.mode == "RGB" and image.size == (64, 48)
    assert difference(image, picture()) < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(inverse[orientation]) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, "JPEG", quality=95, exif=exif))
    assert image.size == picture().size
    assert difference(image, picture()) < 4


def test_garbage_exif_does_not_matter():
    data = encoded(picture(), "JPEG", quality=95, exif=b"Exif\x00\x00" + bytes(range(200)))
    assert difference(open_image(data), picture()) < 4


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert open_image(encoded(clear)).getpixel((5, 5)) == (255, 255, 255)
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([10, 20, 30])
    assert open_image(encoded(palette, transparency=0)).getpixel((5, 5)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    values = np.asarray(open_image(encoded(Image.fromarray(ramp))))[..., 0]
    assert np.abs(values - ramp / 257).max() <= 1


def test_cmyk_becomes_rgb():
    image = open_image(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB" and difference(image, picture()) < 8


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((5, 5)) == (255, 0, 0)


def test_metadata_is_dropped():
    exif = Image.Exif()
    exif[0x010E] = "somebody's home"
    assert open_image(encoded(picture(), "JPEG", exif=exif)).info == {}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"just some words", "not a PNG, JPEG or WEBP"),
        (encoded(picture(), "GIF"), "not a PNG, JPEG or WEBP"),
        (encoded(picture(), "TIFF"), "not a PNG, JPEG or WEBP"),
        (encoded(picture())[:100], "damaged"),
        (encoded(picture(10, 10)), "too small"),
        (encoded(picture(20, 400)), "too narrow"),
        (encoded(picture(8193, 2000)), "too large"),
        (encoded(Image.new("1", (10_000, 10_000))), "too many pixels"),
        (encoded(Image.new("1", (20_000, 10_000))), "too many pixels"),
        (encoded(picture()) + bytes(MAX_BYTES), "too large"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refuses_in_one_plain_sentence(data, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        open_image(data)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.png"):
        open_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("size", [(64, 64), (400, 100), (100, 400), (133, 77), (128, 16)])
def test_square_and_back_keeps_the_picture(size):
    image = picture(*size)
    square, (left, top, right, bottom) = fit_square(image, 128)
    assert square.size == (128, 128) and square.mode == "RGB"
    assert max(right - left, bottom - top) == 128
    assert abs((right - left) / (bottom - top) - size[0] / size[1]) < 0.1 * size[0] / size[1]
    restored = crop_back(square, (left, top, right, bottom), size)
    assert restored.size == size
    assert difference(restored, image) < 4


def test_padding_extends_the_edge():
    square, (_, top, _, bottom) = fit_square(picture(128, 32), 128)
    pixels = np.asarray(square)
    assert (pixels[:top] == pixels[top]).all() and (pixels[bottom:] == pixels[bottom - 1]).all()
