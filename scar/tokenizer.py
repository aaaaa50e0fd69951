"""Image <-> tokens.

Images are (B, 3, H, W) in [-1, 1]; tokens are (B, N) int64, the sets one after the other.
Both tokenizers share one surface, so that one decode loop and one training step serve both:

    encode(images) -> tokens          inputs(tokens) -> what the backbone reads in training
    decode(tokens) -> images          next_input(tokens, sets) -> what it reads for the `sets` sets
                                      that end with the one after `tokens`
    recent(tokens, sets) -> the tokens of those that next_input reads
    preview(tokens, backdrop) -> the picture as far as it is known
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.autoencoder import Decoder, Encoder
from scar.config import MultiScaleVQConfig, VQConfig


class Reconstruction(NamedTuple):
    """What training a tokenizer needs."""

    images: Tensor  # (B, 3, H, W), not clamped
    commitment: Tensor  # scalar, |z - sg(code)|^2
    latents: (
        Tensor  # (M, code_dim): every vector that was quantised, with its gradient if it has one
    )
    codes: Tensor  # (M,): the code each of them got


class VQTokenizer(nn.Module):
    """One grid of codes in raster order (LlamaGen VQ-16: l2-normalised latents and codes)."""

    unit_latents = True

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        self.set_sizes = config.set_sizes
        self.encoder = Encoder(config.autoencoder)
        self.quant_conv = nn.Conv2d(config.autoencoder.latent, config.code_dim, 1)
        self.codebook = nn.Embedding(config.codebook_size, config.code_dim)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.autoencoder.latent, 1)
        self.decoder = Decoder(config.autoencoder)

    def encode(self, images: Tensor) -> Tensor:
        return nearest(self.latents(images), self.codes())

    def decode(self, tokens: Tensor) -> Tensor:
        grid = self.config.grid
        z = F.embedding(tokens, self.codes()).mT.unflatten(2, (grid, grid))  # (B, d, g, g)
        return self.decoder(self.post_quant_conv(z)).clamp(-1, 1)

    def preview(self, tokens: Tensor, backdrop: Tensor) -> Tensor:
        """The decoded cells so far on `backdrop` (B, 3, H, W)."""
        count, known = self.config.grid**2, tokens.shape[1]
        images = self.decode(F.pad(tokens, (0, count - known)))
        cells = (torch.arange(count, device=tokens.device) < known).view(1, 1, self.config.grid, -1)
        mask = F.interpolate(cells.to(images.dtype), images.shape[-2:], mode="nearest")
        return torch.lerp(backdrop.to(images.dtype), images, mask)

    def inputs(self, tokens: Tensor) -> Tensor:
        return tokens[:, :-1]

    def next_input(self, tokens: Tensor, sets: int = 1) -> Tensor:
        return tokens[:, -sets:]

    def recent(self, tokens: Tensor, sets: int = 1) -> Tensor:
        return tokens[:, -sets:]

    def reconstruct(self, images: Tensor, continuous: Tensor) -> Reconstruction:
        """Encode and decode with the straight-through estimator.

        continuous: (B,) bool, the examples that skip the quantiser.
        """
        z = self.latents(images)  # (B, N, d)
        tokens = nearest(z, self.codes())
        q = F.embedding(tokens, self.codes())
        commitment = F.mse_loss(z, q.detach())
        step = (q - z).detach().masked_fill(continuous[:, None, None], 0)
        grid = self.config.grid
        images = self.decoder(self.post_quant_conv((z + step).mT.unflatten(2, (grid, grid))))
        return Reconstruction(images, commitment, z.flatten(0, 1), tokens.flatten())

    def latents(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, d), unit length."""
        z = self.quant_conv(self.encoder(images)).flatten(2).mT
        return F.normalize(z.float(), dim=-1)

    def codes(self) -> Tensor:
        return F.normalize(self.codebook.weight, dim=-1)


class MultiScaleVQTokenizer(nn.Module):
    """Residual codes over growing grids (VAR): each scale codes what the coarser ones left over."""

    unit_latents = False

    def __init__(self, config: MultiScaleVQConfig):
        super().__init__()
        self.config = config
        self.set_sizes = config.set_sizes
        self.encoder = Encoder(config.autoencoder)
        self.quant_conv = nn.Conv2d(config.autoencoder.latent, config.code_dim, 3, padding=1)
        self.codebook = nn.Embedding(config.codebook_size, config.code_dim)
        self.phi = nn.ModuleList(
            nn.Conv2d(config.code_dim, config.code_dim, 3, padding=1)
            for _ in range(config.residual_convs)
        )
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.autoencoder.latent, 3, padding=1)
        self.decoder = Decoder(config.autoencoder)

    def encode(self, images: Tensor) -> Tensor:
        return self.quantise(self.quant_conv(self.encoder(images)))[0]

    def decode(self, tokens: Tensor) -> Tensor:
        return self.pixels(self.canvas(tokens)).clamp(-1, 1)

    def preview(self, tokens: Tensor, backdrop: Tensor) -> Tensor:
        """The coarse picture the scales so far describe; it covers `backdrop` whole."""
        return self.decode(tokens)

    def inputs(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, N - 1, d): for every scale but the first, the canvas so far at its size."""
        return self.next_input(tokens[:, : -self.set_sizes[-1]], len(self.set_sizes) - 1)

    def recent(self, tokens: Tensor, sets: int = 1) -> Tensor:
        return tokens

    def next_input(self, tokens: Tensor, sets: int = 1) -> Tensor:
        """(B, n) -> (B, m, d): for each of the `sets` scales, the canvas before it at its size."""
        parts = self._split(tokens)
        inputs, canvas = [], 0
        for scale, part in enumerate(parts):
            canvas = canvas + self._spread(part, scale)
            if scale >= len(parts) - sets:
                side = self.config.scales[scale + 1]
                inputs.append(F.interpolate(canvas, size=side, mode="area").flatten(2).mT)
        return torch.cat(inputs, dim=1)

    def reconstruct(self, images: Tensor, continuous: Tensor) -> Reconstruction:
        """Encode and decode with the straight-through estimator.

        continuous: (B,) bool, the examples that skip the quantiser.
        """
        f = self.quant_conv(self.encoder(images)).float()
        tokens, canvas, latents = self.quantise(f)
        commitment = F.mse_loss(f, canvas.detach()) + F.mse_loss(canvas, f.detach())
        # The gradient reaches the encoder as if there were no quantiser, and phi through the
        # canvas.
        quantised = f + (canvas - f).detach() + (canvas - canvas.detach())
        images = self.pixels(torch.where(continuous[:, None, None, None], f, quantised))
        codes = torch.cat([t.flatten() for t in self._split(tokens)])
        return Reconstruction(images, commitment, latents, codes)

    def quantise(self, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, d, g, g) -> tokens (B, N), canvas (B, d, g, g), quantised vectors (M, d)."""
        residual, canvas, tokens, latents = f.detach().float(), torch.zeros_like(f), [], []
        for scale, side in enumerate(self.config.scales):
            last = scale == len(self.config.scales) - 1
            z = residual if last else F.interpolate(residual, size=side, mode="area")
            z = z.flatten(2).mT  # (B, side^2, d)
            tokens.append(nearest(z, self.codebook.weight))
            latents.append(z.flatten(0, 1))
            part = self._spread(tokens[-1], scale)
            canvas = canvas + part
            residual = residual - part.detach()
        return torch.cat(tokens, dim=1), canvas, torch.cat(latents)

    def canvas(self, tokens: Tensor) -> Tensor:
        """The sum over the scales in `tokens`: (B, n) -> (B, d, g, g)."""
        return sum(self._spread(part, scale) for scale, part in enumerate(self._split(tokens)))

    def pixels(self, canvas: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(canvas))

    def _spread(self, tokens: Tensor, scale: int) -> Tensor:
        """phi_k(upsample(codes of one scale)): (B, side^2) -> (B, d, g, g)."""
        side, grid = self.config.scales[scale], self.config.grid
        h = self.codebook(tokens).mT.unflatten(2, (side, side))
        if side != grid:
            h = F.interpolate(h, size=grid, mode="bicubic")
        return 0.5 * h + 0.5 * self.phi[self._phi_index(scale)](h)

    def _phi_index(self, scale: int) -> int:
        """The convolution whose tick is nearest to the scale's place in [0, 1]."""
        count, place = len(self.phi), scale / max(len(self.config.scales) - 1, 1)
        low = 1 / 3 / count
        high = 1 - low
        # VAR's ticks, rounded as numpy.linspace rounds them: scales 3 and 8 of 10 lie half way
        # between two ticks, and the last bit decides.
        ticks = [low + i * ((high - low) / max(count - 1, 1)) for i in range(count - 1)] + [high]
        return min(range(count), key=lambda i: abs(ticks[i] - place))

    def _split(self, tokens: Tensor) -> list[Tensor]:
        sizes, left = [], tokens.shape[1]
        for size in self.set_sizes:
            if left == 0:
                break
            sizes.append(size)
            left -= size
        return list(tokens.split(sizes, dim=1))


def nearest(z: Tensor, codes: Tensor) -> Tensor:
    """(B, n, d), (K, d) -> (B, n): the index of the nearest code by Euclidean distance."""
    distance = codes.square().sum(1) - 2 * z.float() @ codes.float().T
    return distance.argmin(dim=-1)
