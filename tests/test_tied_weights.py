"""A weight that an embedding and a head share: PyTorch's names, gradients and training, one parameter for all."""

import tracemalloc

import numpy as np
import pytest
from language_models import HEADS, LENGTH, WIDTH, WORDS, LanguageModel
from torch_layers import assert_near, torch

from npdp import nn, optim

F = torch.nn.functional


class TheirBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH, bias=False)
        self.attn = torch.nn.Module()
        self.attn.c_attn, self.attn.c_proj = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.GELU(),
                                       torch.nn.Linear(2 * WIDTH, WIDTH))  # fmt: skip

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, HEADS, width // HEADS).transpose(1, 2)
                   for part in self.attn.c_attn(self.ln_1(x)).split(width, dim=2))  # fmt: skip
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.attn.c_proj(y.reshape(batch, length, width))
        return x + self.mlp(self.ln_2(x))


class TheirLanguageModel(torch.nn.Module):
    def __init__(self, tie):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Embedding(LENGTH, WIDTH)
        self.blocks = torch.nn.ModuleList(TheirBlock() for _ in range(2))
        self.ln_f, self.head = torch.nn.RMSNorm(WIDTH), torch.nn.Linear(WIDTH, WORDS, bias=False)
        if tie == "head":
            self.head.weight = self.wte.weight
        elif tie == "embedding":
            self.wte.weight = self.head.weight
        self.double()

    def forward(self, numbers):
        x = self.wte(numbers) + self.wpe(torch.arange(LENGTH))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


@pytest.mark.parametrize("tie", ["head", "embedding", None])
def test_a_language_model_trains_as_pytorchs_with_the_same_names_in_its_state(tie):
    ours, theirs = LanguageModel(tie=tie), TheirLanguageModel(tie)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    theirs.load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    optimizer = optim.AdamW(ours.parameters(), lr=0.01)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    for iteration in range(10):
        numbers, targets = np.random.default_rng(iteration).integers(0, WORDS, (2, 3, LENGTH))
        optimizer.zero_grad()
        other.zero_grad()
        loss = nn.CrossEntropyLoss()(ours(numbers).view(-1, WORDS), targets.reshape(-1))
        loss.backward()
        wanted = F.cross_entropy(theirs(torch.tensor(numbers)).view(-1, WORDS), torch.tensor(targets).reshape(-1))
        wanted.backward()
        assert_near(loss, wanted)
        named = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            assert_near(parameter.grad, named[name].grad, name)
        assert_near(optim.clip_grad_norm_(ours.parameters(), 0.5),
                    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5))  # fmt: skip
        optimizer.step()
        other.step()
    assert_near(ours.wte.weight.data, theirs.wte.weight)


def test_both_layers_see_an_update_and_a_copy_ties_its_own():
    import copy

    for tie in ("head", "embedding"):
        model = LanguageModel(tie=tie)
        twin = copy.deepcopy(model)
        assert model.head.weight is model.wte.weight and twin.head.weight is twin.wte.weight
        assert twin.head.weight is not model.head.weight
        optim.SGD(model.parameters(), lr=0.1)
        assert model.wte.weight.data.flags.c_contiguous  # a row of an embedding lies in one piece
        assert np.array_equal(model.head.weight.data, twin.wte.weight.data)


def test_a_state_has_one_copy_of_a_weight_with_two_names():
    state = LanguageModel().state_dict()
    assert state["head.weight"] is state["wte.weight"]


@pytest.mark.parametrize("laid_flat", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
def test_a_second_gradient_of_an_embedding_is_added_where_the_first_lies(tied, laid_flat, hooked):
    embedding, numbers = nn.Embedding(7, 3), np.array([3, 5, 3])
    head = nn.Linear(3, 7, bias=False)
    if tied:
        head.weight = embedding.weight
    if laid_flat:
        optim.SGD(embedding.parameters(), lr=0.1)
    if hooked:
        embedding.weight.register_hook(lambda g: 2 * g)
    weight = embedding.weight.data
    wanted = np.zeros_like(weight)
    np.add.at(wanted, numbers, 2 * weight[numbers])
    if tied:
        wanted += 1
    for backwards in (1, 2):
        x = embedding(numbers)
        ((x * x).sum() + head(np.ones((1, 3), np.float32)).sum()).backward()
        np.testing.assert_allclose(embedding.weight.grad, backwards * (2 if hooked else 1) * wanted, rtol=1e-6)
        assert embedding.weight.raw_grad is embedding.weight.grad_buffer or not laid_flat


def test_rows_are_added_without_an_array_of_the_weights_size():
    embedding = nn.Embedding(20_000, 8)
    embedding(np.array([3, 5, 3])).sum().backward()
    again = embedding(np.array([3, 5, 3])).sum()
    tracemalloc.start()
    again.backward()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < embedding.weight.data.nbytes / 2
