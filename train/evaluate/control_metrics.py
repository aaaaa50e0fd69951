"""Measures of how well a picture obeys its control map, and of how real pictures look."""

from __future__ import annotations

import torch
from skimage import metrics
from torch import Tensor


def edge_f1(a: Tensor, b: Tensor) -> Tensor:
    """F1 of the edge pixels of two maps (B, H, W) in [0, 1], (B,); 1 where neither has any.

    A pixel is an edge above 0.5. Edges must meet exactly: one pixel aside counts as a miss.
    """
    a, b = a > 0.5, b > 0.5
    both, total = (a & b).sum((1, 2)), a.sum((1, 2)) + b.sum((1, 2))
    return torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root of the mean squared difference of maps (B, H, W) in [0, 1], (B,)."""
    return (a - b).square().mean((1, 2)).sqrt()


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) of maps (B, H, W) in [0, 1], (B,); 1 for equal maps.

    Gaussian windows of 11 x 11 that lie inside the picture, so sides must be at least 11.
    """
    pairs = zip(a.cpu().numpy(), b.cpu().numpy(), strict=True)
    values = [
        metrics.structural_similarity(
            x, y, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in pairs
    ]
    return torch.tensor(values, dtype=a.dtype, device=a.device)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the normal distributions fitted to features (N, F), (M, F).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). N and M must be at least 2; with fewer
    examples than features the covariances are singular and the distance is too large.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    # S_a S_b has the eigenvalues of the symmetric S_a^(1/2) S_b S_a^(1/2).
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float((apart + cov_a.trace() + cov_b.trace() - 2 * cross).clamp(min=0))
