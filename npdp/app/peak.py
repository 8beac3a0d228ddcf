"""Share of the processor's peak that training a language model reaches.

    a token takes 6 N floating-point operations, N the numbers of the matrices that it is multiplied with (2 N forward,
    4 N backward), and 6 layers width context for causal attention

The peak is what a product of two square matrices reaches here, on each rank.
Source: Chowdhery et al., PaLM: scaling language modeling with pathways, 2022 (appendix B).
"""

from __future__ import annotations

import time

import numpy as np

from npdp import kernels, nn
from npdp.models.gpt import GPT

SIDE, TRIES = 1024, 5


def share_of_peak(model: nn.Module, tokens_per_s: float, ranks: int, dtype: str) -> dict[str, float]:
    """Return the share for so many tokens a second over all ranks; nothing where the model is no GPT."""
    if not isinstance(model, GPT):
        return {}
    numbers = sum(p.data.size for name, p in model.named_parameters() if p.ndim > 1 and "positions" not in name)
    of_attention = 6 * len(model.blocks) * model.tokens.embedding_dim * model.context
    return {"share_of_peak": tokens_per_s * (6 * numbers + of_attention) / (ranks * _peak(dtype))}


def _peak(dtype: str) -> float:
    """Return the floating-point operations a second of a large product on this rank, at best."""
    square, seconds = np.ones((SIDE, SIDE), dtype), []
    for _ in range(TRIES):
        before = time.perf_counter()
        kernels.matmul(square, square)
        seconds.append(time.perf_counter() - before)
    return float(2 * SIDE**3 / min(seconds))
