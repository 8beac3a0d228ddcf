"""The GPT of npdp/models: PyTorch's numbers, the same on any number of ranks, and text token by token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import assert_close, run

import npdp
from npdp import nn, optim
from npdp.autograd import no_grad
from npdp.data import DataLoader
from npdp.data.text import TextDataset
from npdp.models.generate import draw, generate
from npdp.models.gpt import GPT

VOCABULARY, CONTEXT = 11, 8


def small(positions="learned", dropout=0.0, seed=1):
    npdp.manual_seed(seed)
    model = GPT(VOCABULARY, CONTEXT, 2, 2, 12, dropout, positions)
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64) * 5  # far from where all tokens are as likely
    return model


def tokens_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, count)


def groups_of(model):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def loss_of(logits, labels):
    return nn.CrossEntropyLoss()(logits.reshape(-1, VOCABULARY), labels.reshape(-1))


# What it is
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_token_sees_those_before_it_and_none_after(positions):
    model, tokens = small(positions).eval(), tokens_of(CONTEXT)[None]
    changed = tokens.copy()
    changed[0, 5] = (changed[0, 5] + 1) % VOCABULARY
    with no_grad():
        before, after = model(tokens).data, model(changed).data
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_rotary_positions_count_from_anywhere():
    model, tokens = small("rotary").eval(), tokens_of(4)[None]
    caches = [{} for _ in model.blocks]
    with no_grad():
        model(tokens_of(3, 7)[None], caches)
        with_others = model(tokens, caches).data
    assert with_others.shape == (1, 4, VOCABULARY)


def test_the_head_has_the_weight_of_the_token_embedding():
    model = small()
    assert model.head.weight is model.tokens.weight
    assert len(list(model.parameters())) == 2 + 2 * 12 + 2


@pytest.mark.parametrize(("heads", "width", "positions"), [(5, 12, "learned"), (4, 12, "rotary")])
def test_widths_that_heads_do_not_divide_are_refused(heads, width, positions):
    with pytest.raises(ValueError, match=f"width must be a multiple of .* got width {width} and {heads} heads"):
        GPT(VOCABULARY, CONTEXT, 1, heads, width, positions=positions)


# Over ranks
@settings(max_examples=12, deadline=None)
@given(
    world_size=st.integers(2, 5),
    batch_size=st.sampled_from([12, 7]),
    strategy=st.sampled_from(["replicated", "fused", "ps"]),
    dropout=st.sampled_from([0.0, 0.2]),
)
def test_any_number_of_ranks_trains_the_model_of_one(world_size, batch_size, strategy, dropout):
    def program():
        model = small(dropout=dropout)
        optimizer = optim.SGD(groups_of(model), lr=0.1, momentum=0.9)  # Adam makes much of a key's bias, which is noise
        ways = {"ps": {"strategy": npdp.ParameterServer(servers=0)}, "fused": {"update": "fused"}}
        wrapped = nn.DataParallel(model, **ways.get(strategy, {}))
        data, seen = TextDataset(tokens_of(20 * CONTEXT + 3), CONTEXT), []
        for _ in range(2):
            for x, y in DataLoader(data, batch_size, shuffle=True):
                optimizer.zero_grad()
                loss_of(wrapped(x), y).backward()
                optimizer.step()
                seen.append(len(x))
        wrapped.synchronize()
        return {name: np.array(p.data) for name, p in model.named_parameters()}, sum(seen)

    ((wanted, count),) = run(1, program)
    got = run(world_size, program)
    assert sum(seen for _, seen in got) == count
    for mine, _ in got:
        assert_close(mine, wanted, tolerance=1e-10)


# Text
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_kept_keys_and_values_give_the_tokens_that_the_whole_text_gives(positions):
    model, prompt = small(positions).eval(), tokens_of(3).tolist()
    tokens = list(prompt)
    with no_grad():
        for _ in range(CONTEXT - 3):
            tokens.append(int(model(np.array([tokens])).data[0, -1].argmax()))
    assert prompt + list(generate(model, prompt, CONTEXT - 3, temperature=0)) == tokens


def test_generation_goes_on_beyond_the_context_and_is_the_same_for_the_same_seed():
    model = small().eval()
    first, again, other = (list(generate(model, [1, 2], 40, 1.5, seed=seed)) for seed in (3, 3, 4))
    assert first == again != other and len(first) == 40 and set(first) <= set(range(VOCABULARY))


def test_nothing_goes_on_from_no_token():
    with pytest.raises(ValueError, match="generate: wanted a prompt of at least one token to go on from, got none"):
        next(generate(small().eval(), np.array([], np.int64), 3))


def test_a_draw_takes_the_likeliest_at_temperature_0_and_none_but_the_k_likeliest():
    logits, generator = np.array([0.0, 3.0, 2.9, -1.0], np.float32), np.random.default_rng(0)
    assert draw(logits, 0, None, generator) == draw(logits, 1e-310, None, generator) == 1
    assert {draw(logits, 5.0, 2, generator) for _ in range(200)} == {1, 2}
    assert {draw(logits, 5.0, None, generator) for _ in range(400)} == {0, 1, 2, 3}


# PyTorch
def test_losses_are_pytorchs_over_50_iterations_of_adamw_in_two_groups_with_clipping():
    torch = pytest.importorskip("torch")

    model = small()
    theirs = _in_torch(model)
    mine = optim.AdamW(groups_of(model), lr=0.01)
    other = torch.optim.AdamW(groups_of(theirs), lr=0.01)
    for iteration in range(50):
        window = tokens_of(4 * (CONTEXT + 1), iteration).reshape(4, CONTEXT + 1)
        x, y = window[:, :-1], window[:, 1:]
        loss, their_loss = loss_of(model(x), y), _their_loss(theirs, torch.tensor(x), torch.tensor(y))
        assert abs(loss.item() - their_loss.item()) < 1e-8
        for optimizer, each, clip in ((mine, loss, optim.clip_grad_norm_),
                                      (other, their_loss, torch.nn.utils.clip_grad_norm_)):
            optimizer.zero_grad()
            each.backward()
            clip((model if each is loss else theirs).parameters(), 1.0)
            optimizer.step()


def _in_torch(model):
    """The same model, written with PyTorch's layers, with the same weights."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = torch.nn.LayerNorm(12), torch.nn.LayerNorm(12)
            self.attention = torch.nn.ModuleDict({"qkv": torch.nn.Linear(12, 36), "out": torch.nn.Linear(12, 12)})
            self.mlp = torch.nn.Sequential(
                torch.nn.Linear(12, 48), torch.nn.GELU("tanh"), torch.nn.Linear(48, 12), torch.nn.Dropout(0)
            )

        def forward(self, x):
            n, t, _ = x.shape
            parts = self.attention["qkv"](self.norm1(x)).split(12, 2)
            q, k, v = (part.view(n, t, 2, 6).transpose(1, 2) for part in parts)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.attention["out"](y.transpose(1, 2).reshape(n, t, 12))
            return x + self.mlp(self.norm2(x))

    theirs = torch.nn.Module()
    theirs.tokens, theirs.positions = torch.nn.Embedding(VOCABULARY, 12), torch.nn.Embedding(CONTEXT, 12)
    theirs.blocks, theirs.norm = torch.nn.ModuleList(Block() for _ in range(2)), torch.nn.LayerNorm(12)
    theirs.head = torch.nn.Linear(12, VOCABULARY, bias=False)
    theirs.head.weight = theirs.tokens.weight
    theirs.double().load_state_dict({k: torch.tensor(np.array(v)) for k, v in model.state_dict().items()})
    return theirs


def _their_loss(theirs, x, y):
    import torch

    z = theirs.tokens(x) + theirs.positions(torch.arange(x.shape[1]))
    for block in theirs.blocks:
        z = block(z)
    return torch.nn.functional.cross_entropy(theirs.head(theirs.norm(z)).view(-1, VOCABULARY), y.reshape(-1))


def test_weights_of_gpt2_are_found_by_their_names():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from npdp.models.gpt2_weights import from_arrays

    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=3)
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    model = from_arrays({name: value.numpy() for name, value in theirs.state_dict().items()}, "test", heads=3)
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9))
    with torch.no_grad(), no_grad():
        np.testing.assert_allclose(model(tokens).data, theirs(torch.tensor(tokens)).logits.numpy(), atol=1e-5)
