"""The codebook as an exponential moving average of the latents that choose its codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist


class CodebookEMA(nn.Module):
    """Online k-means of the codes (van den Oord et al. 2017, appendix A.1), restarting dead ones.

        N_k <- decay N_k + (1 - decay) n_k          n_k latents chose code k in this step
        m_k <- decay m_k + (1 - decay) sum z        over those latents z
        e_k  = m_k / N_k

    A code with N_k below `floor` is moved onto a random latent: without that a small codebook was
    seen to keep 5% of its codes alive. A step counts as a whole, over its `accumulate`
    micro-batches on every process: the result does not depend on how it is cut.

    Letters: K codes of width d, M latents of a micro-batch.
    """

    def __init__(
        self, codebook: nn.Embedding, accumulate: int = 1, decay: float = 0.97, floor: float = 0.03
    ):
        super().__init__()
        self.accumulate, self.decay, self.floor = accumulate, decay, floor
        codebook.weight.requires_grad_(False)
        self.codebook = [codebook]  # in a list: the tokenizer owns it
        self.pending: list[Tensor] = []  # statistics of the micro-batches of an unfinished step
        self.register_buffer("count", torch.zeros(codebook.num_embeddings))  # N_k (K,)
        self.register_buffer("total", torch.zeros_like(codebook.weight))  # m_k (K, d)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Add the latents (M, d) of a micro-batch and their codes (M,); after the last one of a
        step, which every process must reach, update the codebook."""
        self.pending.append(self._statistics(latents.float(), codes))
        if len(self.pending) < self.accumulate:
            return
        statistics = torch.stack(self.pending).sum(0)  # (K, 1 + 2d)
        self.pending.clear()
        if dist.is_initialized():
            dist.all_reduce(statistics)
        if statistics.isfinite().all():
            cluster_size, latent_sum, restart_candidates = statistics.tensor_split(
                [1, 1 + latents.shape[1]], dim=1
            )
            self._update(cluster_size.squeeze(1), latent_sum, restart_candidates)

    def _statistics(self, latents: Tensor, codes: Tensor) -> Tensor:
        """Of one micro-batch, for every code (K, 1 + 2d): cluster size, sum of its latents, and the
        latent it would restart from, 0 where another micro-batch draws it. They add up over the
        micro-batches and processes of a step."""
        cluster_size = torch.zeros_like(self.count).index_add_(
            0, codes, torch.ones_like(codes, dtype=torch.float)
        )
        latent_sum = torch.zeros_like(self.total).index_add_(0, codes, latents)
        rank = dist.get_rank() if dist.is_initialized() else 0
        processes = dist.get_world_size() if dist.is_initialized() else 1
        part, parts = len(self.pending) * processes + rank, self.accumulate * processes
        restart_candidates = latents[
            torch.randint(len(latents), cluster_size.shape, device=latents.device)
        ]
        owned_by_rank = torch.arange(len(cluster_size), device=latents.device) % parts == part
        return torch.cat(
            [
                cluster_size.unsqueeze(1),
                latent_sum,
                restart_candidates * owned_by_rank.unsqueeze(1),
            ],
            dim=1,
        )

    def _update(self, cluster_size: Tensor, latent_sum: Tensor, restart_candidates: Tensor) -> None:
        self.count.lerp_(cluster_size, 1 - self.decay)
        self.total.lerp_(latent_sum, 1 - self.decay)
        dead = self.count < self.floor
        self.total[dead] = restart_candidates[dead]
        self.count[dead] = 1.0
        self.codebook[0].weight.copy_(self.total / self.count.unsqueeze(1))
