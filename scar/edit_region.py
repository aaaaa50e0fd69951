"""The edit region in tokens and pixels: which tokens are sampled, and how the result is composited
onto the source.

    r > threshold, or a painted mask  ->  tokens to sample, and a mask of pixels that may change
    result = source + region * matte * (decoded - source)

Outside the mask the result equals the source bit for bit.

Letters: B batch, S pixels along a side, h x w grid of the encoder, N tokens of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from scar.config import MultiScaleVQConfig, VQConfig
from scar.images import Box, composite, crop_back, fit_square
from scar.inputs import EncodedImage
from scar.region import change_matte, changed_cells, region_tokens


@dataclass(frozen=True)
class EditRegion:
    sampled: Tensor  # (1, N) bool, tokens that are sampled; the others are the source's
    mask: Image.Image  # "L", at the size of the input, 255 where pixels may change


def predicted_region(
    cells: Tensor, image: Image.Image, box: Box, tokenizer: VQConfig | MultiScaleVQConfig
) -> EditRegion:
    """Args:
    cells: (h, w) bool, cells of the encoder's grid that may change.
    box: where `image` lies in the model's square.
    """
    side = tokenizer.image_size
    square = to_pil_image(cells.to(torch.uint8).mul(255).cpu())
    square = square.resize((side, side), Image.Resampling.NEAREST)
    mask = square.resize(image.size, Image.Resampling.NEAREST, box=box)
    return EditRegion(region_tokens(cells.unsqueeze(0), tokenizer.sides), mask)


def painted_region(
    mask: Image.Image, tokenizer: VQConfig | MultiScaleVQConfig, device: torch.device
) -> EditRegion:
    """mask: "L", 0 or 255, at the size of the input."""
    square, _ = fit_square(mask, tokenizer.image_size)
    painted = pil_to_tensor(square)[:1] > 127  # (1, S, S)
    cells = changed_cells(painted, tokenizer.grid).to(device)
    return EditRegion(region_tokens(cells, tokenizer.sides), mask)


def forced_tokens(
    regions: list[EditRegion | None], encoded: list[EncodedImage]
) -> tuple[Tensor, Tensor] | None:
    """(tokens (B, N), mask (B, N)) of `scar.sampling.decode`; None where every token is sampled."""
    if not any(regions):
        return None
    source = torch.cat([e.tokens for e in encoded])  # (B, N)
    everything = torch.ones_like(source[:1], dtype=torch.bool)
    sampled = torch.cat([r.sampled if r else everything for r in regions])  # (B, N)
    return source, ~sampled


def render(
    pixels: Tensor, images: list[Image.Image], encoded: list[EncodedImage],
    regions: list[EditRegion | None],
) -> list[Image.Image]:  # fmt: skip
    """Decoded pixels (B, 3, S, S) in [-1, 1] -> images at the sizes of the inputs, composited onto
    them where there is a region."""
    rendered = []
    for row, (image, e, region) in enumerate(zip(images, encoded, regions, strict=True)):
        result = crop_back(_to_pil(pixels[row]), e.box, image.size)
        if region is not None:
            matte = change_matte(pixels[row : row + 1], e.reconstruction)  # (1, S, S)
            soft = crop_back(to_pil_image(matte.float().cpu()), e.box, image.size)
            result = composite(image, result, region.mask, soft)
        rendered.append(result)
    return rendered


def _to_pil(pixels: Tensor) -> Image.Image:
    """(3, S, S) in [-1, 1] -> RGB."""
    return to_pil_image(((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
