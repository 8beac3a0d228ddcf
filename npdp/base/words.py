"""Ranks in words, for errors and warnings."""

from __future__ import annotations

from collections.abc import Sequence


def ranks_in_words(ranks: Sequence[int], most: int | None = None) -> str:
    """Return `rank 1`, `ranks 0, 2 and 3`; beyond so many ranks, how many more they are."""
    texts = [str(rank) for rank in ranks[:most]]
    if len(texts) < len(ranks):
        texts.append(f"{len(ranks) - len(texts)} more")
    *first, last = texts
    return f"ranks {', '.join(first)} and {last}" if first else f"rank {last}"
