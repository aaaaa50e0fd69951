"""The sprite vocabulary and a bank of textures that pastes, tints and shades sprites in batches."""

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scar.assets import ASSETS

SPRITES = ASSETS / "sprites"

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.14, 0.18),
    "orange": (0.98, 0.53, 0.10),
    "yellow": (0.99, 0.83, 0.16),
    "green": (0.22, 0.68, 0.29),
    "blue": (0.16, 0.42, 0.92),
    "purple": (0.54, 0.27, 0.84),
    "pink": (0.99, 0.55, 0.76),
    "brown": (0.50, 0.31, 0.18),
    "black": (0.17, 0.17, 0.20),
    "white": (0.94, 0.94, 0.96),
}

# How far a recoloured sprite must be from the original (mean absolute RGB difference) for the
# edit to be visible to everyone.
VISIBLE_CHANGE = 0.12
AT_ONCE = 16  # sprites that are dyed together: they stay in the cache


@dataclass(frozen=True)
class Sprite:
    """One object of the vocabulary; `width` and `height` are the visible part's share of a cell."""

    index: int
    name: str
    category: str
    plural: bool
    colour: str
    width: float
    height: float

    @property
    def hangs(self) -> bool:
        return self.category == "sky"


@cache
def vocabulary() -> tuple[Sprite, ...]:
    """Every packed object, the 48 of the starter vocabulary first."""
    entries = table()["objects"]
    extents = (sheet()[:, 3] > 24).numpy()
    shares = [(e.any(0).sum() / e.shape[1], e.any(1).sum() / e.shape[0]) for e in extents]
    return tuple(
        Sprite(i, e["name"], e["category"], e["plural"], e["colour"], float(w), float(h))
        for i, (e, (w, h)) in enumerate(zip(entries, shares, strict=True))
    )


@cache
def table() -> dict:
    return json.loads((SPRITES / "sprites.json").read_text("utf-8"))


@cache
def sheet() -> Tensor:
    """All sprites, uint8 (N, 4, 128, 128), straight RGBA."""
    cell, columns, per_page = (table()[k] for k in ("cell", "columns", "per_page"))
    cells = []
    for page in sorted(SPRITES.glob("page_*.webp")):
        rgba = np.asarray(Image.open(page).convert("RGBA"))
        rows = rgba.shape[0] // cell
        grid = rgba.reshape(rows, cell, columns, cell, 4).swapaxes(1, 2)
        cells.append(grid.reshape(-1, cell, cell, 4)[:per_page])
    stacked = np.concatenate(cells)[: len(table()["objects"])]
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))


@cache
def sprite_bank(count: int, size: int, device: torch.device) -> "SpriteBank":
    """The bank of these arguments, which all data sets of a process share."""
    return SpriteBank(count, size, device)


class SpriteBank:
    """The first `count` sprites as textures for images of `size` pixels.

    A texture is a sprite cell with a margin of 1/8 on each side, which holds the contact shadow.
    """

    def __init__(self, count: int, size: int, device: str | torch.device = "cpu"):
        cells = sheet()[:count].to(device).float() / 255
        # One mip level a picture size: objects take 0.26 to 0.54 of the side, so that bilinear
        # sampling from 0.44 of the side neither aliases nor blurs visibly.
        self.cell = min(cells.shape[-1], round(0.44 * size))
        alpha = cells[:, 3:]
        premultiplied = torch.cat([cells[:, :3] * alpha, alpha], 1)
        small = F.interpolate(
            premultiplied, (self.cell, self.cell), mode="bilinear", antialias=True
        ).clamp(0, 1)
        self.rgb = small[:, :3] / small[:, 3:].clamp_min(1e-3)  # (N, 3, c, c)
        self.alpha = small[:, 3:]  # (N, 1, c, c)
        self.margin = self.cell // 8
        hangs = [s.hangs for s in vocabulary()[:count]]
        self.shadow = contact_shadow(F.pad(self.alpha, [self.margin] * 4))
        self.shadow[torch.tensor(hangs)] = 0
        self.palette = torch.tensor(list(COLOURS.values()), device=device)
        self._prepare_tint()

    def _prepare_tint(self) -> None:
        weight = colourfulness(self.rgb)
        colourful = (weight * self.alpha).mean((1, 2, 3)) / self.alpha.mean((1, 2, 3))
        # Grey and white things have no colour to turn: they are dyed all over.
        self.dye_all = (colourful < 0.35).float()[:, None, None, None]
        weight = torch.maximum(weight, self.dye_all) * self.alpha
        self.middle = (luma(self.rgb) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
        ids = torch.arange(len(self.rgb), device=self.rgb.device)
        change = torch.cat([self._change(some) for some in ids.split(AT_ONCE)])
        visible = (change > VISIBLE_CHANGE).cpu()
        self.colours = [
            [name for name, ok in zip(COLOURS, row, strict=True) if ok] for row in visible.tolist()
        ]

    def _change(self, ids: Tensor) -> Tensor:
        """How far sprites (B,) in every colour are from their own, (B, colours)."""
        rgb, alpha = self.rgb[ids], self.alpha[ids]
        change = [
            ((self.tinted(ids, torch.full_like(ids, c)) - rgb).abs() * alpha)
            .mean((1, 2, 3))
            .div(alpha.mean((1, 2, 3)))
            for c in range(len(COLOURS))
        ]
        return torch.stack(change, 1)

    def tinted(self, sprites: Tensor, colours: Tensor) -> Tensor:
        """RGB (B, 3, c, c) of sprites (B,) in colours (B,), -1 meaning their own."""
        rgb = self.rgb[sprites]
        middle = self.middle[sprites][:, None, None, None]
        base = self.palette[colours.clamp_min(0)][:, :, None, None]
        light = luma(rgb)
        dark_side = base * (light / middle).clamp(0, 1)
        lift = ((light - middle) / (1 - middle).clamp_min(1e-3)).clamp(0, 1)
        dyed = dark_side + (1 - base) * lift * 0.7
        weight = torch.maximum(colourfulness(rgb), self.dye_all[sprites])
        weight = weight * (colours >= 0)[:, None, None, None]
        return rgb + (dyed - rgb) * weight

    def layers(
        self,
        sprites: Tensor,
        colours: Tensor,
        boxes: Tensor,
        mirrored: Tensor,
        shadow: Tensor,
        light: Tensor,
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sprites drawn alone on an empty picture.

        sprites, colours: (B,); boxes: (B, 3) left, top and side of the cell in pixels;
        mirrored: (B,) -1 or 1; shadow: (B,) its strength; light: (B, 3) multiplies the colours.
        Returns premultiplied RGB (B, 3, S, S), the total
        opacity with shadow (B, 1, S, S) and the opacity of the object alone (B, 1, S, S).
        """
        alpha = self.alpha[sprites]
        rgb = self.tinted(sprites, colours) * light[:, :, None, None] * alpha
        texture = F.pad(torch.cat([rgb, alpha], 1), [self.margin] * 4)
        total = texture[:, 3:] + (1 - texture[:, 3:]) * (
            self.shadow[sprites] * shadow[:, None, None, None]
        )
        texture = torch.cat([texture, total], 1)
        pixels = torch.arange(size, device=texture.device) + 0.5
        centre = boxes[:, :2] + boxes[:, 2:] / 2
        half = boxes[:, 2:] / 2 * (texture.shape[-1] / self.cell)
        across = ((pixels - centre[:, :1]) / half * mirrored[:, None])[:, None, :].expand(
            -1, size, -1
        )
        down = ((pixels - centre[:, 1:]) / half)[:, :, None].expand(-1, -1, size)
        drawn = F.grid_sample(texture, torch.stack([across, down], -1), align_corners=False)
        return drawn[:, :3], drawn[:, 4:], drawn[:, 3:4]


def contact_shadow(alpha: Tensor) -> Tensor:
    """Opacity (N, 1, t, t) of a soft ellipse under where each sprite meets the ground."""
    t = alpha.shape[-1]
    grid = (torch.arange(t, device=alpha.device) + 0.5) / t
    foot = alpha[:, 0, int(t * 0.72) :].amax(1)  # (N, t), the columns that come near the ground
    mass = foot.sum(1, keepdim=True).clamp_min(1e-3)
    middle = (foot * grid).sum(1, keepdim=True) / mass
    spread = ((foot * (grid - middle) ** 2).sum(1, keepdim=True) / mass).sqrt()
    across = ((grid - middle) / (1.55 * spread + 0.02))[:, None, None, :]
    down = ((grid - 0.885) / 0.04)[None, None, :, None]
    fade = ((0.5 - (grid - 0.5).abs()) * 9).clamp(0, 1)  # to nothing at the texture's border
    return 0.55 * torch.exp(-(across**2 + down**2)) * fade[:, None] * fade


def luma(rgb: Tensor) -> Tensor:
    return 0.3 * rgb[:, :1] + 0.59 * rgb[:, 1:2] + 0.11 * rgb[:, 2:]


def colourfulness(rgb: Tensor) -> Tensor:
    """0 for greys to 1 for clearly coloured pixels, (B, 1, c, c)."""
    high, low = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    return (((high - low) / high.clamp_min(1e-3) - 0.12) / 0.22).clamp(0, 1)
