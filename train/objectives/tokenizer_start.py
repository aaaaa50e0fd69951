"""What a tokenizer starts from: the principal components of image patches, or another tokenizer."""

from __future__ import annotations

from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.tokenizer import MultiScaleVQTokenizer, VQTokenizer, nearest
from scar.weights.checkpoint import WeightsError, load_weights


def start_from_tokenizer(tokenizer: VQTokenizer | MultiScaleVQTokenizer, folder: Path) -> list[str]:
    """Load what fits of another tokenizer; returns the keys that stay fresh.

    Autoencoders of one shape serve both paradigms: only what lies around the quantiser is new. A
    decoder that draws larger pictures starts with each pixel repeated.

    Raises:
        WeightsError: the checkpoint is damaged, or fits less than half of the weights.
    """
    own = tokenizer.state_dict()
    state = _enlarged(load_weights(folder, "tokenizer"), own)
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if 2 * sum(v.numel() for v in fitting.values()) < sum(v.numel() for v in own.values()):
        raise WeightsError(f"{folder} has few weights of the shapes of this tokenizer")
    tokenizer.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def _enlarged(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repeat the pixels that the decoder's last layers draw, where those of `own` draw more."""
    state = dict(state)
    for key in ("decoder.head.conv.weight", "decoder.head.conv.bias"):  # (3 side^2, ...)
        side, wanted = (isqrt(len(weights[key]) // 3) for weights in (state, own))
        pixels = state[key].unflatten(0, (3, side, side))
        state[key] = _repeated(pixels, wanted // side, 1, 2).flatten(0, 2)
    key = "decoder.shortcut.weight"  # (latent, 3, side, side)
    if key in state and key in own:
        state[key] = _repeated(state[key], own[key].shape[2] // state[key].shape[2], 2, 3)
    return state


def _repeated(x: Tensor, times: int, *dims: int) -> Tensor:
    for dim in dims:
        x = x.repeat_interleave(times, dim)
    return x


@torch.no_grad()
def start_from_patches(tokenizer: VQTokenizer | MultiScaleVQTokenizer, images: Tensor) -> None:
    """Set the weights so that the tokenizer begins as a linear patch codec.

    The first latents hold the leading principal components of a patch; unit-length latents also get
    one constant, so that normalising them loses nothing but scale. The decoder's shortcut is the
    least-squares way back. The convolutions start at zero and learn what is left.

    Args:
        images: (B, 3, H, W) in [-1, 1].

    Raises:
        ValueError: the tokenizer has no shortcut.
    """
    config = tokenizer.config
    if not config.autoencoder.shortcut:
        raise ValueError("patch_start needs a tokenizer with autoencoder.shortcut")
    d, f = config.code_dim, config.autoencoder.encoder_downsampling
    patches = _patches(F.avg_pool2d(images, config.autoencoder.upscale), f)  # (M, 3 f f)
    mean = patches.mean(0)
    basis = torch.linalg.svd(patches - mean, full_matrices=False).Vh
    basis = basis[: d - 1 if tokenizer.unit_latents else d]
    basis = basis / (1.5 * ((patches - mean) @ basis.T).norm(dim=1).mean())

    encoder = tokenizer.encoder
    encoder.shortcut.weight.zero_()[: len(basis)] = basis.unflatten(1, (3, f, f))
    encoder.shortcut.bias.zero_()[: len(basis)] = -basis @ mean
    if tokenizer.unit_latents:
        encoder.shortcut.bias[d - 1] = 1.0
    encoder.head.conv.weight[:d] = 0
    encoder.head.conv.bias[:d] = 0
    _identity(tokenizer.quant_conv, d)
    _identity(tokenizer.post_quant_conv, d)

    f = config.autoencoder.downsampling
    patches = _patches(images, f)
    z = torch.cat([_latents(tokenizer, part) for part in images.split(64)])
    ones = torch.ones_like(z[:, :1])
    back = torch.linalg.lstsq(torch.cat([z, ones], dim=1), patches).solution  # (d + 1, 3 f f)
    decoder = tokenizer.decoder
    decoder.shortcut.weight.zero_()[:d] = back[:d].unflatten(1, (3, f, f))
    # One bias a channel is all a transposed convolution has; the rest rides on the constant latent.
    bias = back[d].unflatten(0, (3, f * f))
    decoder.shortcut.bias.copy_(bias.mean(1))
    decoder.head.conv.weight.zero_()
    decoder.head.conv.bias.zero_()


@torch.no_grad()
def start_codes(
    tokenizer: VQTokenizer | MultiScaleVQTokenizer,
    images: Tensor,
    foreground: Tensor,
    rounds: int = 12,
) -> None:
    """Set the codebook to the k-means of the latents of `images` (B, 3, H, W) in [-1, 1].

    Half of the latents are taken where `foreground` (B, H, W) is True, so that objects get more
    than their share of the codes.
    """
    grid, count = tokenizer.config.grid, tokenizer.config.codebook_size
    latents = torch.cat([_latents(tokenizer, part) for part in images.split(64)])  # (B g g, d)
    front = F.adaptive_max_pool2d(foreground.float().unsqueeze(1), grid).flatten() > 0
    back = (~front).nonzero().flatten()
    back = back[torch.randperm(len(back))[: int(front.sum())]]
    latents = torch.cat([latents[front], latents[back]])
    codes = latents[torch.randint(len(latents), (count,))]
    for _ in range(rounds):
        chosen = torch.cat([nearest(part, codes) for part in latents.split(8192)])
        number = torch.bincount(chosen, minlength=count).unsqueeze(1)
        total = torch.zeros_like(codes).index_add_(0, chosen, latents)
        spare = latents[torch.randint(len(latents), (count,))]
        codes = torch.where(number > 0, total / number.clamp(min=1), spare)
    tokenizer.codebook.weight.copy_(codes)


def _patches(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (M, 3 side^2)"""
    return F.pixel_unshuffle(images, side).movedim(1, -1).flatten(0, 2)


def _latents(tokenizer: VQTokenizer | MultiScaleVQTokenizer, images: Tensor) -> Tensor:
    z = tokenizer.quant_conv(tokenizer.encoder(images))
    z = F.normalize(z, dim=1) if tokenizer.unit_latents else z
    return z.movedim(1, -1).flatten(0, 2)


def _identity(conv: nn.Conv2d, count: int) -> None:
    """The first `count` outputs copy the first `count` inputs, and barely see the others."""
    center = conv.kernel_size[0] // 2
    conv.weight[:count] *= 0.05
    conv.bias[:count] = 0
    for i in range(count):
        conv.weight[i, i] = 0
        conv.weight[i, i, center, center] = 1
