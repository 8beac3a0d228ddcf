"""MultiheadAttention and CausalSelfAttention against PyTorch: state dicts, masks, probabilities, all gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_layers import assert_near, compare, compare_modules, disturbed, random, torch

from npdp import nn

BATCH, ROWS, KEYS, WIDTH, HEADS = 3, 5, 4, 6, 2
property_test = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def twins(bias=True, batch_first=False):
    ours = disturbed(nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first, dtype=np.float64))
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first).double()
    theirs.load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})
    return ours, theirs


def compared(ours, theirs, *inputs, need_weights=True, **masks):
    """Compare output, probabilities and all gradients; the probabilities' too, where they are there."""
    tensors = {name: torch.tensor(mask) for name, mask in masks.items() if isinstance(mask, np.ndarray)}
    probabilities = []

    def of(module, masks):
        def forward(*inputs):
            y, weights = module(*inputs, need_weights=need_weights, **masks)
            probabilities.append(weights)
            return y if weights is None else y + weights.sum() + (weights * weights).sum()

        return forward

    compare(of(ours, masks), of(theirs, masks | tensors), *inputs)
    if need_weights:
        assert_near(probabilities[0], probabilities[1])
    for name, parameter in ours.named_parameters():
        assert_near(parameter.grad, dict(theirs.named_parameters())[name].grad, name)


def mask_of(kind, *shape, seed=0):
    values = random(*shape, seed=seed)
    seen = values < 0.5
    seen[..., 0] = True  # in PyTorch a row that sees nothing is NaN here
    return {"booleans": ~seen, "floats": np.where(seen, values, -np.inf)}[kind]


@property_test
@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["booleans", "floats"]),
       st.sampled_from([None, (ROWS, KEYS), (BATCH * HEADS, ROWS, KEYS)]), st.booleans())  # fmt: skip
def test_cross_attention_is_pytorchs_with_any_masks(bias, batch_first, need_weights, kind, of_scores, of_keys):
    ours, theirs = twins(bias, batch_first)
    axes = (lambda length: (BATCH, length, WIDTH)) if batch_first else (lambda length: (length, BATCH, WIDTH))
    inputs = random(*axes(ROWS)), random(*axes(KEYS), seed=1), random(*axes(KEYS), seed=2)
    masks = {"attn_mask": mask_of(kind, *of_scores)} if of_scores else {}
    masks |= {"key_padding_mask": mask_of(kind, BATCH, KEYS, seed=4)} if of_keys else {}
    compared(ours, theirs, *inputs, need_weights=need_weights, **masks)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("shape", [(ROWS, BATCH, WIDTH), (ROWS, WIDTH)])
@pytest.mark.parametrize("padded", [False, True])
def test_self_attention_that_is_causal_needs_no_mask_of_its_own(need_weights, shape, padded):
    ours, theirs = twins()
    triangle = np.triu(np.ones((ROWS, ROWS), bool), 1)
    padding = {}
    if padded:
        padding = {"key_padding_mask": mask_of("booleans", *shape[1:-1], ROWS)}

    def own(x):
        return ours(x, x, x, need_weights=need_weights, is_causal=True, **padding)[0]

    def other(x):
        masks = {name: torch.tensor(mask) for name, mask in padding.items()}
        return theirs(x, x, x, need_weights=need_weights, attn_mask=torch.tensor(triangle), **masks)[0]

    compare(own, other, random(*shape))


def test_the_probabilities_of_each_head_are_pytorchs():
    ours, theirs = twins(batch_first=True)
    x = random(BATCH, ROWS, WIDTH)
    wanted = theirs(*[torch.tensor(x)] * 3, average_attn_weights=False)[1]
    assert_near(ours(x, x, x, average_attn_weights=False)[1], wanted)


def test_a_batch_of_nothing_and_a_sequence_of_nothing_pass():
    layer = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=True)
    for need_weights in (True, False):
        x = np.ones((0, ROWS, WIDTH), np.float32)
        y, _ = layer(x, x, x, need_weights=need_weights)
        y.sum().backward()
        assert y.shape == (0, ROWS, WIDTH) and not layer.in_proj_weight.grad.any()


def test_first_values_are_pytorchs_in_kind():
    import npdp

    npdp.manual_seed(0)
    layer = nn.MultiheadAttention(64, 4)
    bound = np.sqrt(6 / (64 + 192))
    assert bound * 0.99 < abs(layer.in_proj_weight.data).max() <= bound
    assert 0.99 / 8 < abs(layer.out_proj.weight.data).max() <= 1 / 8
    assert not layer.in_proj_bias.data.any() and not layer.out_proj.bias.data.any()


class TheirsOfGPT2(torch.nn.Module):
    """The causal self-attention of GPT-2, as many write it in PyTorch."""

    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, HEADS, width // HEADS).transpose(1, 2)
                   for part in self.c_attn(x).split(width, dim=2))  # fmt: skip
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


@pytest.mark.parametrize("batch", [0, 3])
def test_causal_self_attention_is_gpt2s(batch):
    ours = nn.CausalSelfAttention(WIDTH, HEADS, dtype=np.float64)
    compare_modules(ours, TheirsOfGPT2(), random(batch, ROWS, WIDTH))


@pytest.mark.parametrize("make", [nn.MultiheadAttention, nn.CausalSelfAttention])
def test_heads_that_do_not_divide_the_width_are_refused(make):
    with pytest.raises(ValueError, match="num_heads must divide embed_dim, got 4 heads and a width of 6"):
        make(6, 4)


def test_inputs_and_masks_that_do_not_fit_are_refused():
    layer, x = nn.MultiheadAttention(WIDTH, HEADS), random(ROWS, BATCH, WIDTH).astype(np.float32)
    with pytest.raises(ValueError, match=r"query, key and value of shape \(T, batch, 6\), or all of \(T, 6\), got"):
        layer(x, x, x[..., :3])
    with pytest.raises(ValueError, match=r"attn_mask must have shape \(5, 5\), got \(2, 5\)"):
        layer(x, x, x, attn_mask=np.ones((2, ROWS), bool))
    with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(3, 5\), got \(5, 3\)"):
        layer(x, x, x, np.ones((ROWS, BATCH), bool))
