"""A small language model with a tied head and dropout: PyTorch's losses, and one rank's parameters on any number."""

import numpy as np
import pytest
from language_models import LENGTH, WORDS, Block, BlockOfPyTorch, LanguageModel
from needs import needs_shared_memory
from worlds import Parallel, assert_as_on_one_rank, left, parameters, run

from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.naive import Naive


def texts(count=13):
    numbers = np.random.default_rng(count).integers(0, WORDS, (count, LENGTH + 1))
    return ArrayDataset(numbers[:, :-1], numbers[:, 1:])


def loss_of(logits, targets):
    return nn.CrossEntropyLoss()(logits.view(-1, WORDS), targets.view(-1))


def trained(way, batch_size, dropout=0.2, tie="head", clip=True, block=Block):
    model = LanguageModel(dropout, tie, block)
    # keys' biases change no softmax: Adam with a small eps would make steps of the rounding in their gradient
    optimizer = optim.AdamW(model.parameters(), lr=0.02, eps=1e-3)
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


@pytest.mark.parametrize("need_weights", [False, True])
def test_any_number_of_ranks_drops_the_probabilities_of_pytorchs_layer_as_one_rank(need_weights):
    def block(dropout):
        return BlockOfPyTorch(dropout, need_weights)

    assert_as_on_one_rank(lambda way: trained(way, 7, block=block), tolerance=1e-10)


def test_dropout_of_attention_takes_part():
    (with_it,), (without,) = (run(1, trained, Parallel(), 7, dropout) for dropout in (0.2, 0.0))
    assert any((with_it[name] != array).any() for name, array in without.items())


@needs_shared_memory
def test_a_fused_update_and_the_naive_strategy_train_the_same_language_model():
    for way in (Parallel(update="fused"), Parallel(strategy=Naive())):
        assert_as_on_one_rank(lambda way: trained(way, 7, clip=False), (1, 3), way, tolerance=1e-10)
