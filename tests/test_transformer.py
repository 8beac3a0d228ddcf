"""A small language model with a tied head and dropout: PyTorch's losses, and one rank's parameters on any number."""

import numpy as np
import pytest
from needs import needs_shared_memory
from worlds import Parallel, assert_as_on_one_rank, left, parameters, run

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.naive import Naive

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


class LanguageModel(nn.Module):
    """Two blocks between an embedding and a head that share a weight."""

    def __init__(self, dropout=0.0, tie="head"):
        npdp.manual_seed(7)
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH, **OPTIONS), nn.Embedding(LENGTH, WIDTH, **OPTIONS)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(2))
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


def texts(count=13):
    numbers = np.random.default_rng(count).integers(0, WORDS, (count, LENGTH + 1))
    return ArrayDataset(numbers[:, :-1], numbers[:, 1:])


def loss_of(logits, targets):
    return nn.CrossEntropyLoss()(logits.view(-1, WORDS), targets.view(-1))


def trained(way, batch_size, dropout=0.2, tie="head", clip=True):
    model = LanguageModel(dropout, tie)
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    wrapped = way.wrap(model)
    for _ in range(2):
        for numbers, targets in DataLoader(texts(), batch_size, seed=1):
            optimizer.zero_grad()
            loss_of(wrapped(numbers), targets).backward()
            if clip:
                optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return left(model) if clip else parameters(model)


@pytest.mark.parametrize("batch_size", [3, 7, 13])
@pytest.mark.parametrize("tie", ["head", "embedding", None])
def test_any_number_of_ranks_trains_a_language_model_as_one_rank_with_the_same_dropout(batch_size, tie):
    assert_as_on_one_rank(lambda way: trained(way, batch_size, tie=tie), tolerance=1e-10)


def test_dropout_of_attention_takes_part():
    (with_it,), (without,) = (run(1, trained, Parallel(), 7, dropout) for dropout in (0.2, 0.0))
    assert any((with_it[name] != array).any() for name, array in without.items())


@needs_shared_memory
def test_a_fused_update_and_the_naive_strategy_train_the_same_language_model():
    for way in (Parallel(update="fused"), Parallel(strategy=Naive())):
        assert_as_on_one_rank(lambda way: trained(way, 7, clip=False), (1, 3), way, tolerance=1e-10)
