"""GPT: a transformer that gives, for each token of a text, the logits of the next one.

    tokens (batch, time) ── token embedding + position embedding ── blocks ── norm ── logits (batch, time, vocabulary)

    block    x + attention(norm(x)),  then  x + mlp(norm(x));  mlp: width -> 4 width, GELU, -> width

The head that gives the logits has the weight of the token embedding (they are tied). Weights begin as GPT-2's:
normal with deviation 0.02, those that end a branch of a block divided by sqrt(2 layers), biases 0.
Source: Radford et al., Language models are unsupervised multitask learners, 2019 (GPT-2).
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from npdp import nn
from npdp.autograd import Tensor
from npdp.models.attention import Attention, Cache, tokens_in

DEVIATION = 0.02


class Block(nn.Module):
    """Transformer block: attention, then an MLP on each token, both added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float, rotary: bool) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout, rotary)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Language model of transformer blocks.

    Args:
        vocabulary: number of tokens that there are.
        context: tokens that it sees at most.
        layers, heads, width: blocks, heads of each attention, numbers of a token between blocks.
        dropout: part of the activations that training sets to 0.
        positions: "learned", an embedding of each place, or "rotary", which turns queries and keys by their place.
    """

    def __init__(
        self, vocabulary: int, context: int, layers: int = 4, heads: int = 4, width: int = 128,
        dropout: float = 0.0, positions: str = "learned",
    ) -> None:  # fmt: skip
        if width % heads or (positions == "rotary" and width // heads % 2):
            wanted = "twice the heads" if positions == "rotary" else "the heads"
            raise ValueError(f"width must be a multiple of {wanted}, got width {width} and {heads} heads")
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, positions == "rotary") for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        self._initialize(layers)

    def _initialize(self, layers: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                ends_branch = name.endswith(("attention.out.weight", "mlp.2.weight"))
                deviation = DEVIATION / np.sqrt(2 * layers) if ends_branch else DEVIATION
                nn.init.normal_(parameter, 0.0, deviation)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Any, caches: list[Cache] | None = None) -> Tensor:
        """Return the logits of each next token, (batch, time, vocabulary).

        Args:
            tokens: (batch, time) integers.
            caches: one a block, empty at first; `tokens` are then those that come after the ones they have seen.
        """
        first = tokens_in(caches[0] if caches else None)
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(np.arange(first, first + x.shape[1]))
        x = self.drop(x)
        for number, block in enumerate(self.blocks):
            x = block(x, None if caches is None else caches[number])
        return self.head(self.norm(x))


def make(features: int, classes: int, **flags: Any) -> GPT:
    """Return a GPT for windows of so many tokens, of so many kinds; flags are the command line's."""
    return GPT(classes, features, **flags)


def from_safetensors(path: str, heads: int | None = None) -> GPT:
    """Return a GPT with the weights of GPT-2 as `transformers` saves them; see gpt2_weights.py."""
    from npdp.models import gpt2_weights

    return gpt2_weights.from_safetensors(path, heads)
