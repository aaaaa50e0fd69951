"""Images from outside: how uploads and files become pixels, and how results are saved.

Files may come from anyone: only PNG, JPEG or WEBP by content, with limits on bytes, pixels, sides
and aspect, all checked from the header before a pixel is decoded. Conversion of colour modes is in
`scar.pixels`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from scar.errors import InputError
from scar.pixels import SRGB, to_map, to_mask, to_rgb
from scar.png import essential

__all__ = ["InputError", "to_map", "to_mask", "to_rgb"]  # from their own files

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 10 * 1024 * 1024
MAX_PIXELS = 25_000_000
MIN_SIDE, MAX_SIDE = 16, 8192
MAX_ASPECT = 8
ENCODING = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}

Box = tuple[int, int, int, int]
Source = str | os.PathLike | bytes | BinaryIO


def open_image(
    source: Source, convert: Callable[[Image.Image], Image.Image] = to_rgb
) -> Image.Image:
    """Open a PNG, JPEG or WEBP as an upright 8-bit sRGB image.

    `source` is a path, the bytes themselves, or a binary file. The EXIF orientation and the colour
    profile are applied, transparency is laid on white, 16-bit, grey, palette and CMYK images are
    converted, an animation gives its first frame. Metadata is dropped; damaged or oversized
    metadata is ignored. Raises `InputError` for everything else.
    """
    data = _read(source)
    try:
        # MPO is Pillow's name for a phone's JPEG with a second image inside.
        image = decode(data, (*FORMATS, "MPO"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_many_pixels()) from None
    except Exception:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for a bad header.
        raise InputError("This is not a PNG, JPEG or WEBP image that can be read.") from None
    check_size(image.size)
    return convert(image)


def open_map(source: Source) -> Image.Image:
    """Open a control map, white on black: as `open_image`, but transparency is laid on black."""
    return open_image(source, to_map)


def open_mask(source: Source, size: tuple[int, int] | None = None) -> Image.Image:
    """Open a mask for an image of `size` as mode "L", 0 or 255, by the rules of `to_mask`.

    Raises `InputError` as `open_image`, and for a mask that is black everywhere.
    """
    mask = open_image(source, partial(to_mask, size=size))
    if mask.getbbox() is None:
        raise InputError("This mask is black everywhere; paint white what may change.")
    return mask


def decode(data: bytes, formats: Collection[str] | None = None) -> Image.Image:
    """`Image.open`, with its exceptions, that ignores damaged or oversized metadata."""
    return Image.open(BytesIO(essential(data)), formats=list(formats) if formats else None)


def check_output(path: str | os.PathLike) -> None:
    """Raise `InputError` if `save_image` could not write to `path`: call it before the work."""
    path = Path(path)
    _format(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent}; make it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written; choose another place.")


def save_image(
    image: Image.Image, file: str | os.PathLike | BinaryIO, format: str = "", **options: object
) -> None:
    """Save with the sRGB profile, in the format of the path's ending (none: PNG) or in `format`.

    Raises `InputError` for an ending that names no format, or a path that cannot be written.
    """
    if not format:
        format = _format(Path(cast(str, file)))
    try:
        image.save(file, format, icc_profile=SRGB, **ENCODING.get(format, {}), **options)
    except OSError as error:
        raise InputError(f"The image cannot be saved as {file}: {error}.") from error


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


def fit_square(image: Image.Image, size: int) -> tuple[Image.Image, Box]:
    """Scale the longer side to `size` and extend the edges to a square.

    Returns the (size x size) RGB image and the box (left, top, right, bottom) of the original.
    Edges are extended, not mirrored, so that no object appears twice.
    """
    width, height = image.size
    scale = size / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - width) // 2, (size - height) // 2
    small = np.asarray(to_rgb(image).resize((width, height), Image.Resampling.LANCZOS))
    pad = ((top, size - height - top), (left, size - width - left), (0, 0))
    return Image.fromarray(np.pad(small, pad, mode="edge")), (left, top, left + width, top + height)


def crop_back(image: Image.Image, box: Box, original_size: tuple[int, int]) -> Image.Image:
    """Undo `fit_square`: the image inside `box`, scaled to `original_size` (width, height)."""
    return image.resize(original_size, Image.Resampling.LANCZOS, box=box)


def _read(source: Source) -> bytes:
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


def _format(path: Path) -> str:
    if not path.suffix:
        return "PNG"
    format = Image.registered_extensions().get(path.suffix.lower())
    if format not in Image.SAVE:
        raise InputError(f"An image cannot be saved as {path.name}; use .png, .jpg or .webp.")
    return format


def _too_many_pixels() -> str:
    return f"This image has too many pixels; at most {MAX_PIXELS // 10**6} megapixels are accepted."


def composite(
    image: Image.Image,
    result: Image.Image,
    region: Image.Image,
    matte: Image.Image,
    feather: float = 0.01,
) -> Image.Image:
    """`result` over `image`, weighted by the matte inside the region; outside exactly `image`.

    All have one size; `image` and `result` are RGB.

    Args:
        region: "L", 255 where the image may change, else 0.
        matte: "L", weight of the result, 0 to 255.
        feather: width of the soft edge inside the region, as a share of the longer side.
    """
    radius = max(1.0, feather * max(image.size))
    inner = region.filter(ImageFilter.GaussianBlur(radius)).point(lambda v: max(0, 2 * v - 255))
    soft = ImageChops.multiply(inner, matte)
    soft = Image.composite(soft, Image.new("L", image.size), region)
    return Image.composite(result, image, soft)
