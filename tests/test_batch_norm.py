"""Batch normalisation: PyTorch's results, gradients and running statistics; over ranks, those of the global batch."""

import copy
import pickle

import numpy as np
import pytest
from against_torch import CLOSE, assert_same_layer, assert_same_state, random
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import averaging, run

import npdp
from npdp import nn
from npdp.autograd import Tensor, no_grad

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
torch.set_num_threads(1)
several = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@several
@given(
    st.lists(st.integers(1, 4), min_size=0, max_size=2), st.integers(1, 3), st.integers(2, 4), st.booleans(),
    st.booleans(), st.sampled_from([0.1, 0.7, None]),
)  # fmt: skip
def test_batches_are_normalised_and_remembered_as_by_pytorch(extents, channels, batch, affine, track, momentum):
    name = "BatchNorm2d" if len(extents) == 2 else "BatchNorm1d"
    arguments = (channels, 1e-3, momentum, affine, track)
    ours, theirs = getattr(nn, name)(*arguments, dtype=np.float64), getattr(torch.nn, name)(*arguments)
    if affine:
        with no_grad():
            ours.weight.copy_(random(channels))
            ours.bias.copy_(random(channels, seed=1))
    for seed in range(3):
        shape = batch + seed, channels, *extents
        assert_same_layer(torch, ours, theirs, random(*shape, seed=seed) * 3 + 2)
    ours.eval()
    theirs.eval()
    assert_same_layer(torch, ours, theirs, random(batch, channels, *extents) + 1)


def test_a_mean_far_from_zero_costs_no_digits():
    x = random(400, 2).astype(np.float32) + 1000
    wanted = torch.nn.BatchNorm1d(2).double()(torch.tensor(x).double()).detach().numpy()
    np.testing.assert_allclose(nn.BatchNorm1d(2)(x).data, wanted, atol=3e-4)


def test_a_second_backward_has_sums_of_its_own():
    x = Tensor(random(4, 2), requires_grad=True)
    layer = nn.BatchNorm1d(2, dtype=np.float64)
    y = layer(x)
    y.backward(random(4, 2, seed=1), retain_graph=True)
    layer.weight.grad = layer.bias.grad = None
    y.backward(np.ones((4, 2)))
    np.testing.assert_allclose(layer.weight.grad, y.data.sum(0), **CLOSE)
    np.testing.assert_allclose(layer.bias.grad, [4, 4])


def statistics(layer):
    return {name: np.array(buffer.data) for name, buffer in layer.named_buffers()}


def test_without_gradients_running_statistics_are_taken_and_left_as_they_are():
    layer = nn.BatchNorm1d(3)
    layer(random(5, 3).astype(np.float32))
    before, x = statistics(layer), random(4, 3).astype(np.float32)
    with no_grad():
        y = layer(x)
    np.testing.assert_array_equal(y.data, layer.eval()(x).data)
    for name, values in statistics(layer).items():
        np.testing.assert_array_equal(values, before[name])


def test_ranks_that_evaluate_alone_wait_for_nobody():
    def program():
        model = nn.DataParallel(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)))
        if npdp.rank() == 1:
            with no_grad():
                model(random(3, 2, 2, 2).astype(np.float32))
            model.module.eval()(random(3, 2, 2, 2).astype(np.float32))
        return True

    assert all(run(2, program))


PARTS = ((0, 5), (5, 5), (5, 6))  # of six samples: one rank has none, one has one


def test_a_rank_normalises_by_the_global_batch_also_where_it_has_none_of_it():
    x = random(6, 2, 2, 3)

    def program(parts):
        layer = nn.BatchNorm2d(2, dtype=np.float64)
        model = nn.DataParallel(layer)
        part = Tensor(x[slice(*parts[npdp.rank()])], requires_grad=True)
        y = model(part)
        (y * y * part).mean().backward()
        return y.data, part.grad, layer.weight.grad, layer.bias.grad, layer.running_mean.data, layer.running_var.data

    wanted = run(1, program, [(0, 6)])[0]
    found = run(3, program, PARTS)
    for number in (0, 1):
        np.testing.assert_allclose(np.concatenate([each[number] for each in found]), wanted[number], **CLOSE)
    for each in found:
        for got, of_one in zip(each[2:], wanted[2:]):
            np.testing.assert_allclose(got, of_one, **CLOSE)


def test_ranks_that_do_not_step_together_have_statistics_of_their_own():
    def program():
        layer = nn.BatchNorm1d(1)
        averaging(5).wrap(layer)(np.full((2, 1), [[npdp.rank()], [npdp.rank()]], np.float32))
        return layer.running_mean.data[0]

    np.testing.assert_allclose(run(3, program), [0, 0.1, 0.2], rtol=1e-6)


def test_a_copy_of_a_wrapped_model_is_wrapped_no_more():
    def program():
        layer = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5))
        model = nn.DataParallel(layer)
        x = np.array([[0.0], [2 + npdp.rank()]], np.float32)
        model(x)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            if npdp.rank() == 0:
                assert twin[0](x).shape == (2, 1)
        return True

    assert all(run(2, program))


def test_state_goes_to_pytorch_and_back():
    ours, theirs = nn.BatchNorm2d(3, dtype=np.float64), torch.nn.BatchNorm2d(3).double()
    theirs(torch.tensor(random(4, 3, 2, 2)))
    ours.load_state_dict(theirs.state_dict())
    assert_same_state(ours, theirs)
    assert ours.num_batches_tracked.data.shape == () and ours.num_batches_tracked.item() == 1


@pytest.mark.parametrize("parts", [[(0, 1)], [(0, 0), (0, 1)]])
def test_one_value_a_channel_is_refused_by_all_ranks(parts):
    def program():
        with pytest.raises(ValueError, match="^BatchNorm: wanted more than one value for each channel in training"):
            nn.DataParallel(nn.BatchNorm1d(2))(np.ones((1, 2), np.float32)[slice(*parts[npdp.rank()])])
        return True

    assert all(run(len(parts), program))


def test_no_samples_at_all_are_remembered_by_nobody():
    layer = nn.BatchNorm1d(2)
    layer(np.zeros((0, 2), np.float32)).sum().backward()
    assert layer.num_batches_tracked.item() == 0 and not layer.weight.grad.any()


@pytest.mark.parametrize(("layer", "shape", "said"), [
    (nn.BatchNorm2d(3), (2, 3), r"BatchNorm2d: wanted an input of shape \(batch, 3, height, width\), got \(2, 3\)"),
    (nn.BatchNorm1d(3), (2, 4), r"BatchNorm1d: wanted .* shape \(batch, 3\) or \(batch, 3, time\), got \(2, 4\)"),
])  # fmt: skip
def test_inputs_of_other_shapes_are_refused(layer, shape, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        layer(np.ones(shape, np.float32))
