"""Measures of how well a picture obeys its control map, and of how real pictures look."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of the structural similarity, as Wang et al. 2004 have it


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

    Gaussian windows that lie inside the picture, so sides must be at least 11.
    """
    ticks = torch.arange(WINDOW, device=a.device) - WINDOW // 2
    bell = torch.exp(-ticks.square() / (2 * SIGMA**2))
    bell = bell / bell.sum()

    def blurred(x: Tensor) -> Tensor:
        across = F.conv2d(x.unsqueeze(1), bell.view(1, 1, 1, -1))
        return F.conv2d(across, bell.view(1, 1, -1, 1))[:, 0]

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return likeness.mean((1, 2))


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
