"""Images from outside: every upload and every file passes through `open_image`.

The rules are those of a public demo: PNG, JPEG or WEBP by content, bounded bytes, pixels, sides and
aspect, all checked from the header before a pixel is decoded. What passes is an upright RGB image.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 10 * 1024 * 1024
MAX_PIXELS = 25_000_000
MIN_SIDE, MAX_SIDE = 16, 8192
MAX_ASPECT = 8

Box = tuple[int, int, int, int]


class InputError(ValueError):
    """An input that cannot be used; the message is one plain sentence for whoever sent it."""


def open_image(source: str | os.PathLike | bytes | BinaryIO) -> Image.Image:
    """Open a PNG, JPEG or WEBP as an upright 8-bit RGB image.

    `source` is a path, the bytes themselves, or a binary file. EXIF rotation is applied,
    transparency is laid on white, 16-bit, grey, palette and CMYK images are converted, an animation
    gives its first frame. Metadata does not survive. Raises `InputError` for everything else.
    """
    data = _read(source)
    try:
        # MPO is what Pillow calls a phone's JPEG with a second picture inside.
        image = Image.open(BytesIO(data), formats=(*FORMATS, "MPO"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_many_pixels()) from None
    except Exception:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for a bad header.
        raise InputError("This is not a PNG, JPEG or WEBP image that can be read.") from None
    check_size(image.size)
    try:
        image.load()
        image = to_rgb(_upright(image))
    except Exception:
        raise InputError("This image is damaged; please save it again and retry.") from None
    return image


def check_size(size: tuple[int, int]) -> None:
    """Raise `InputError` if an image of `size` (width, height) is too small, large or narrow."""
    short, long = sorted(size)
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(_too_many_pixels())
    if short < MIN_SIDE:
        raise InputError(
            f"This image is too small ({size[0]} x {size[1]}); "
            f"each side needs at least {MIN_SIDE} pixels."
        )
    if long > MAX_SIDE:
        raise InputError(f"This image is too large; a side may have at most {MAX_SIDE} pixels.")
    if long > MAX_ASPECT * short:
        raise InputError(
            f"This image is too narrow ({size[0]} x {size[1]}); "
            f"the longer side may be at most {MAX_ASPECT} times the shorter."
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image without metadata: alpha on white, 16-bit scaled down."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip instead of scaling
        grey = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB") if image.mode != "RGB" else image.copy()
    image.info = {}
    return image


def fit_square(image: Image.Image, size: int) -> tuple[Image.Image, Box]:
    """Scale the longer side to `size` and extend the edges to a square.

    Returns the (size x size) RGB image and the box (left, top, right, bottom) that holds the
    picture. Edges are extended rather than mirrored: sky stays sky, ground stays ground, and no
    object appears twice.
    """
    width, height = image.size
    scale = size / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - width) // 2, (size - height) // 2
    small = np.asarray(to_rgb(image).resize((width, height), Image.Resampling.LANCZOS))
    pad = ((top, size - height - top), (left, size - width - left), (0, 0))
    return Image.fromarray(np.pad(small, pad, mode="edge")), (left, top, left + width, top + height)


def crop_back(image: Image.Image, box: Box, original_size: tuple[int, int]) -> Image.Image:
    """Undo `fit_square`: the picture inside `box`, scaled to `original_size` (width, height)."""
    return image.resize(original_size, Image.Resampling.LANCZOS, box=box)


def _read(source: str | os.PathLike | bytes | BinaryIO) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif hasattr(source, "read"):
        data = source.read(MAX_BYTES + 1)
    else:
        try:
            with open(source, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            raise InputError(f"There is no readable file at {os.fspath(source)}.") from None
    if len(data) > MAX_BYTES:
        limit = MAX_BYTES // 1024**2
        raise InputError(f"This file is too large; an image may have at most {limit} MB.")
    if not data:
        raise InputError("This file is empty.")
    return data


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF says nothing about the pixels
        return image


def _too_many_pixels() -> str:
    return f"This image has too many pixels; at most {MAX_PIXELS // 10**6} megapixels are accepted."


def composite(
    image: Image.Image,
    drawn: Image.Image,
    region: Image.Image,
    matte: Image.Image,
    feather: float = 0.01,
) -> Image.Image:
    """`drawn` on `image`, by the matte inside the region; outside exactly `image`.

    Args:
        region: "L", white where the image may change.
        matte: "L", how much of each pixel changes, at the size of `image`.
        feather: width of the fade inside the region's border, as a share of the longer side.
    """
    hard = region.convert("L").resize(image.size).point(lambda v: 255 if v > 127 else 0)
    radius = max(1.0, feather * max(image.size))
    inner = hard.filter(ImageFilter.GaussianBlur(radius)).point(lambda v: max(0, 2 * v - 255))
    soft = ImageChops.multiply(inner, matte)
    soft = Image.composite(soft, Image.new("L", image.size), hard)
    return Image.composite(drawn, image.convert("RGB"), soft)
