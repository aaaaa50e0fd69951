"""Conversion of an image of any mode to an RGB image, a control map or a mask.

Samples become 8 bits by the mode of the image:

    1                       black and white
    L, LA, La               as they are
    P, PA                   the colours of the palette
    RGB, RGBA, RGBa, RGBX   as they are; the fourth sample of RGBX means nothing
    CMYK, YCbCr, HSV, LAB   by the colour profile where there is one, else by Pillow's formulas
    I;16, I;16L, I;16B      0..65535
    I                       0..255, 0..65535 or 0..2147483647: the first that holds the largest
    F                       0..1, 0..255 or 0..65535 likewise; what is not finite counts as 0
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageOps

from scar.errors import InputError

RANGES = {"I;16": (65535,), "I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}
MASK_RANGES = (1, 255, 65535, 2**31 - 1)
COLOUR_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as a new 8-bit sRGB image, upright, without metadata.

    The EXIF orientation and the colour profile are applied, transparency is laid on white. Raises
    `InputError` if the pixels cannot be decoded.
    """
    return _flattened(image, "white")


def to_map(image: Image.Image) -> Image.Image:
    """Any image as a control map, which is white on black: as `to_rgb`, but laid on black."""
    return _flattened(image, "black")


def to_mask(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Any image as a mask: mode "L", 255 from half of the full range on, else 0.

    Transparency is the mask where anything is transparent, otherwise lightness is. Full range is
    the first of 1, 255, 65535 and 2147483647 that holds the largest sample, so that masks of 0 and
    1 work as those of 8 and 16 bits do. `size` (width, height) is that of the image the mask is
    stretched over. Raises `InputError` if the pixels cannot be decoded.
    """
    image = _upright(image)
    alpha = _alpha(image)
    if alpha is not None and np.asarray(alpha).min() < 255:
        grey = alpha
    elif image.mode == "F" or image.mode.startswith("I"):
        grey = _scaled(np.asarray(image), MASK_RANGES)
    else:
        grey = _scaled(np.asarray(_srgb(_samples(image), None).convert("L")), MASK_RANGES)
    grey = grey if size is None else grey.resize(size)
    return grey.point(lambda v: 255 if v > 127 else 0)


def _flattened(image: Image.Image, ground: str) -> Image.Image:
    image = _upright(image)
    rgb, alpha = _srgb(_samples(image), image.info.get("icc_profile")), _alpha(image)
    if alpha is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, ground), alpha)
    rgb.info = {}
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception:  # Pillow raises half a dozen kinds for a damaged file
        raise InputError("This image is damaged; please save it again and retry.") from None
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels do not depend on EXIF that cannot be read
        return image


def _samples(image: Image.Image) -> Image.Image:
    """The colours in 8 bits, without transparency: mode L, RGB, CMYK or LAB."""
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    if mode in RANGES:
        return _scaled(np.asarray(image), RANGES[mode])
    if mode in COLOUR_SPACES:
        return image
    if mode in ("1", "LA", "La"):
        return (image.convert("LA") if mode == "La" else image).convert("L")
    return (image.convert("RGBA") if mode == "RGBa" else image).convert("RGB")


def _scaled(values: np.ndarray, ranges: tuple[int, ...]) -> Image.Image:
    """Mode "L": 0 to the first of `ranges` that holds all values becomes 0 to 255."""
    values = values.astype(np.float32)
    values[~np.isfinite(values)] = 0
    full = next((r for r in ranges if values.max(initial=0) <= r), ranges[-1])
    return Image.fromarray((values * (255 / full)).round().clip(0, 255).astype(np.uint8))


def _alpha(image: Image.Image) -> Image.Image | None:
    """Mode "L", 255 where the image is opaque; None if it has no transparency."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return image.getchannel(len(image.getbands()) - 1)
    if image.mode == "P":
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    clear: Any = image.info.get("transparency")  # one value, or one per channel
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if np.shape(clear) != values.shape[2:] or not np.issubdtype(np.array(clear).dtype, np.integer):
        return None
    if image.mode == "RGB" and max(clear) > 255:
        clear = [value >> 8 for value in clear]  # of 16 bits Pillow keeps the higher 8
    same = values == np.array(clear)
    same = same.all(axis=-1) if same.ndim == 3 else same
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A new RGB image: `profile` applied, or ignored where it is broken or of other colours."""
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    return _applied(transform, image)


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    return cast(Image.Image, ImageCms.applyTransform(image, transform))  # None only in place


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space.strip() != COLOUR_SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            source, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        colours = Image.fromarray(_PROBE).convert(mode) if mode in ("L", "RGB") else None
        if colours and _is_near(_applied(transform, colours), colours):
            return None  # sRGB under one of its names: the pixels stay what they are, bit for bit
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    return transform


def _is_near(a: Image.Image, b: Image.Image) -> bool:
    x, y = (np.asarray(image.convert("RGB"), np.int16) for image in (a, b))
    return bool(np.abs(x - y).max() <= 2)


def _dated(profile: bytes) -> bytes:
    """The profile with a fixed date in its header, so that the same image gives the same file."""
    return profile[:24] + bytes((7, 208, 0, 1, 0, 1)) + bytes(6) + profile[36:]


_SRGB = ImageCms.createProfile("sRGB")
SRGB = _dated(ImageCms.ImageCmsProfile(_SRGB).tobytes())  # what results carry
# 9 x 9 x 9 colours, (81, 9, 3)
_PROBE = np.stack(np.meshgrid(*[np.linspace(0, 255, 9)] * 3), -1).reshape(81, 9, 3).astype(np.uint8)
