"""A small language model for tests: two blocks of a transformer, with dropout, and a head that may share a weight."""

import numpy as np

import npdp
from npdp import nn

WORDS, LENGTH, WIDTH, HEADS = 11, 5, 8, 2
OPTIONS = dict(dtype=np.float64)


class Block(nn.Module):
    """Block of a transformer: attention and an MLP, each on what is normalised and added to what came."""

    def __init__(self, dropout):
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, **OPTIONS), nn.LayerNorm(WIDTH, bias=False, **OPTIONS)
        self.attn = nn.CausalSelfAttention(WIDTH, HEADS, dropout, **OPTIONS)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH, **OPTIONS), nn.GELU(),
                                 nn.Linear(2 * WIDTH, WIDTH, **OPTIONS), nn.Dropout(dropout))  # fmt: skip

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class BlockOfPyTorch(Block):
    """The same with the attention that PyTorch has as a layer, causal and by dropped probabilities that are shown."""

    def __init__(self, dropout, need_weights):
        super().__init__(dropout)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, dropout, batch_first=True, **OPTIONS)
        self.need_weights = need_weights

    def forward(self, x):
        z = self.ln_1(x)
        x = x + self.attn(z, z, z, need_weights=self.need_weights, is_causal=True)[0]
        return x + self.mlp(self.ln_2(x))


class LanguageModel(nn.Module):
    """Two blocks between an embedding and a head that share a weight."""

    def __init__(self, dropout=0.0, tie="head", block=Block):
        npdp.manual_seed(7)
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH, **OPTIONS), nn.Embedding(LENGTH, WIDTH, **OPTIONS)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(block(dropout) for _ in range(2))
        self.ln_f, self.head = nn.RMSNorm(WIDTH, **OPTIONS), nn.Linear(WIDTH, WORDS, bias=False, **OPTIONS)
        if tie == "head":
            self.head.weight = self.wte.weight
        elif tie == "embedding":
            self.wte.weight = self.head.weight

    def forward(self, numbers):
        x = self.drop(self.wte(numbers) + self.wpe(np.arange(LENGTH)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))
