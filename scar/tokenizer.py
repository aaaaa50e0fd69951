"""The two tokenizers: images <-> tokens. Both are a `scar.protocols.Tokenizer`, so one decode loop
and one training step serve both.

    VQ-16   z = E(x)         token_i = argmin_j |z_i - e_j|         x' = D(e_token)
    VAR     r_1 = E(x)       tokens_k = argmin_j |down(r_k) - e_j|  for each scale k
            r_k+1 = r_k - u_k,    u_k = phi_k(up(e_tokens_k))       x' = D(f_hat), f_hat = sum_k u_k

Letters: B batch, H x W pixels, g x g the (finest) grid, N tokens of an image, n tokens so far,
d channels of a code, K codes, M quantised vectors of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.autoencoder import Decoder, Encoder
from scar.config import MultiScaleVQConfig, VQConfig


class Reconstruction(NamedTuple):
    """What the losses of a tokenizer need."""

    images: Tensor  # (B, 3, H, W), not clamped
    commitment: Tensor  # scalar, |z - sg(code)|^2
    latents: Tensor  # (M, d), the vectors that were quantised, with gradients if they have any
    codes: Tensor  # (M,), the code of each of them


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
        """(B, 3, H, W) -> (B, N)."""
        return nearest(self.latents(images), self.codes())

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, 3, H, W)."""
        grid = self.config.grid
        z = F.embedding(tokens, self.codes()).mT.unflatten(2, (grid, grid))  # (B, d, g, g)
        return self.decoder(self.post_quant_conv(z)).clamp(-1, 1)

    def preview(self, tokens: Tensor, backdrop: Tensor) -> Tensor:
        """(B, n) -> the decoded cells on `backdrop` (B, 3, H, W)."""
        count, num_decoded = self.config.grid**2, tokens.shape[1]
        images = self.decode(F.pad(tokens, (0, count - num_decoded)))  # (B, 3, H, W)
        decoded = torch.arange(count, device=tokens.device) < num_decoded  # (N,)
        decoded = decoded.view(1, 1, self.config.grid, -1)  # (1, 1, g, g)
        mask = F.interpolate(decoded.to(images.dtype), images.shape[-2:], mode="nearest")
        return torch.lerp(backdrop.to(images.dtype), images, mask)

    def inputs(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, N - 1): each token is the input that predicts the next."""
        return tokens[:, :-1]

    def last_tokens(self, tokens: Tensor, sets: int = 1) -> Tensor:
        return tokens[:, -sets:]

    def next_input(self, tokens: Tensor, sets: int = 1) -> Tensor:
        """(B, n) -> (B, sets)."""
        return tokens[:, -sets:]

    def reconstruct(self, images: Tensor, continuous: Tensor) -> Reconstruction:
        """Encode and decode with the straight-through estimator.

        continuous: (B,) bool, examples that skip the quantiser.
        """
        z = self.latents(images)  # (B, N, d)
        tokens = nearest(z, self.codes())
        q = F.embedding(tokens, self.codes())  # (B, N, d)
        commitment = F.mse_loss(z, q.detach())
        # Straight-through: z + sg(q - z) has the value of q and the gradient of z.
        z_q = z + (q - z).detach().masked_fill(continuous[:, None, None], 0)  # (B, N, d)
        grid = self.config.grid
        images = self.decoder(self.post_quant_conv(z_q.mT.unflatten(2, (grid, grid))))
        return Reconstruction(images, commitment, z.flatten(0, 1), tokens.flatten())

    def latents(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, d), of unit length."""
        z = self.quant_conv(self.encoder(images)).flatten(2).mT  # (B, N, d)
        return F.normalize(z.float(), dim=-1)

    def codes(self) -> Tensor:
        """(K, d), of unit length."""
        return F.normalize(self.codebook.weight, dim=-1)


class MultiScaleVQTokenizer(nn.Module):
    """Residual quantisation over growing grids (VAR): each scale codes the residual of the coarser
    ones."""

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
        """(B, 3, H, W) -> (B, N)."""
        return self.quantise(self.quant_conv(self.encoder(images)))[0]

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, n) of the first scales -> (B, 3, H, W)."""
        return self.decode_latents(self.sum_scales(tokens)).clamp(-1, 1)

    def preview(self, tokens: Tensor, backdrop: Tensor) -> Tensor:
        """(B, n) -> (B, 3, H, W), the coarse image of the scales so far. It hides `backdrop`."""
        return self.decode(tokens)

    def inputs(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, N - 1, d): for every scale but the first, f_hat of the coarser scales at
        its size."""
        return self.next_input(tokens[:, : -self.set_sizes[-1]], len(self.set_sizes) - 1)

    def last_tokens(self, tokens: Tensor, sets: int = 1) -> Tensor:
        return tokens  # f_hat is a sum over all of them

    def next_input(self, tokens: Tensor, sets: int = 1) -> Tensor:
        """(B, n) -> (B, m, d): for each of the `sets` scales, f_hat of the coarser scales at its
        size."""
        parts = self._split(tokens)
        inputs: list[Tensor] = []
        f_hat: Tensor | int = 0
        for scale, part in enumerate(parts):
            f_hat = f_hat + self._upsample_codes(part, scale)  # (B, d, g, g)
            if scale >= len(parts) - sets:
                side = self.config.scales[scale + 1]
                resized = F.interpolate(f_hat, size=side, mode="area")  # (B, d, side, side)
                inputs.append(resized.flatten(2).mT)  # (B, side^2, d)
        return torch.cat(inputs, dim=1)

    def reconstruct(self, images: Tensor, continuous: Tensor) -> Reconstruction:
        """Encode and decode with the straight-through estimator.

        continuous: (B,) bool, examples that skip the quantiser.
        """
        f = self.quant_conv(self.encoder(images)).float()  # (B, d, g, g)
        tokens, f_hat, latents = self.quantise(f)
        commitment = F.mse_loss(f, f_hat.detach()) + F.mse_loss(f_hat, f.detach())
        # Straight-through: the value of f_hat, and the gradients of f (encoder) and f_hat (phi).
        quantised = f + (f_hat - f).detach() + (f_hat - f_hat.detach())
        images = self.decode_latents(torch.where(continuous[:, None, None, None], f, quantised))
        codes = torch.cat([t.flatten() for t in self._split(tokens)])
        return Reconstruction(images, commitment, latents, codes)

    def quantise(self, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f (B, d, g, g) -> tokens (B, N), f_hat (B, d, g, g), quantised vectors (M, d)."""
        residual, f_hat = f.detach().float(), torch.zeros_like(f)  # r_1, 0
        tokens: list[Tensor] = []
        latents: list[Tensor] = []
        for scale, side in enumerate(self.config.scales):
            last = scale == len(self.config.scales) - 1
            z = residual if last else F.interpolate(residual, size=side, mode="area")
            z = z.flatten(2).mT  # (B, side^2, d)
            tokens.append(nearest(z, self.codebook.weight))
            latents.append(z.flatten(0, 1))
            upsampled = self._upsample_codes(tokens[-1], scale)  # u_k (B, d, g, g)
            f_hat = f_hat + upsampled
            residual = residual - upsampled.detach()  # r_k+1
        return torch.cat(tokens, dim=1), f_hat, torch.cat(latents)

    def sum_scales(self, tokens: Tensor) -> Tensor:
        """f_hat of the scales in `tokens`: (B, n) -> (B, d, g, g)."""
        first, *rest = self._split(tokens)
        f_hat = self._upsample_codes(first, 0)
        for scale, part in enumerate(rest, 1):
            f_hat = f_hat + self._upsample_codes(part, scale)
        return f_hat

    def decode_latents(self, f_hat: Tensor) -> Tensor:
        """(B, d, g, g) -> (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(f_hat))

    def _upsample_codes(self, tokens: Tensor, scale: int) -> Tensor:
        """u_k = phi_k(up(e_tokens)): (B, side^2) -> (B, d, g, g)."""
        side, grid = self.config.scales[scale], self.config.grid
        h = self.codebook(tokens).mT.unflatten(2, (side, side))  # (B, d, side, side)
        if side != grid:
            h = F.interpolate(h, size=grid, mode="bicubic")
        return 0.5 * h + 0.5 * self.phi[self._phi_index(scale)](h)

    def _phi_index(self, scale: int) -> int:
        """phi_k is shared by neighbouring scales: the convolution whose tick in [0, 1] is nearest
        to the scale's."""
        count, place = len(self.phi), scale / max(len(self.config.scales) - 1, 1)
        low = 1 / 3 / count
        high = 1 - low
        # VAR's ticks, rounded as numpy.linspace does: scales 3 and 8 of 10 lie half way between two
        # ticks, so the last bit decides.
        ticks = [low + i * ((high - low) / max(count - 1, 1)) for i in range(count - 1)] + [high]
        return min(range(count), key=lambda i: abs(ticks[i] - place))

    def _split(self, tokens: Tensor) -> list[Tensor]:
        """(B, n) -> (B, side^2) of each scale."""
        sizes, left = [], tokens.shape[1]
        for size in self.set_sizes:
            if left == 0:
                break
            sizes.append(size)
            left -= size
        return list(tokens.split(sizes, dim=1))


def nearest(z: Tensor, codes: Tensor) -> Tensor:
    """(B, n, d), (K, d) -> (B, n): argmin_j |z - e_j|^2, without |z|^2, which no j changes."""
    distance = codes.square().sum(1) - 2 * z.float() @ codes.float().T
    return distance.argmin(dim=-1)
