"""The built-in models: they take what their docs say, learn it, and are the same from any number of ranks."""

import numpy as np
import pytest
from training import fit, off

import npdp
from npdp import nn, optim, saved_model
from npdp.app import models
from npdp.autograd import Tensor, no_grad
from npdp.base.errors import InputError
from npdp.models.cnn import CNN
from npdp.models.gru import GRUClassifier

FLAGS = ("--quiet", "--epochs", "2", "--global-batch-size", "50", "--dtype", "float64")
of_squares = pytest.mark.parametrize("name", ["cnn", "gru"])


def built(name, features, classes):
    return models.build(name, features, classes, {}, "float32")


@pytest.mark.parametrize("size", [4, 5, 8, 11, 12, 13, 28])
def test_a_cnn_takes_square_images_flat_or_not(size):
    model = built("cnn", size * size, 3).eval()
    images = np.random.default_rng(0).standard_normal((2, 1, size, size)).astype(np.float32)
    logits = model(Tensor(images))
    assert logits.shape == (2, 3) and model(Tensor(images[:0])).shape == (0, 3)
    np.testing.assert_array_equal(model(images.reshape(2, -1)).data, logits.data)


def test_a_cnn_for_digits_of_28_by_28_has_the_shape_of_lenet_5():
    shapes = [parameter.shape for name, parameter in CNN(28, 10).named_parameters() if name.endswith("weight")]
    wanted = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (84, 120), (10, 84)]
    assert shapes == wanted
    assert CNN(32, 10, channels=3)(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 10)


@pytest.mark.parametrize("size", [1, 5, 8])
def test_a_gru_takes_sequences_flat_or_not(size):
    model = built("gru", size * size, 3)
    images = np.random.default_rng(0).standard_normal((2, size, size)).astype(np.float32)
    logits = model(Tensor(images))
    assert logits.shape == (2, 3) and model(images[:0].reshape(0, size * size)).shape == (0, 3)
    np.testing.assert_array_equal(model(images.reshape(2, -1)).data, logits.data)


@pytest.mark.parametrize("pixels", [0, 9, 10, 48, 50])
def test_a_cnn_refuses_what_is_no_square_or_small(pixels):
    wanted = f"^--model cnn: wanted square images, of 4 x 4 pixels or more, got {pixels} features$"
    with pytest.raises(InputError, match=wanted):
        built("cnn", pixels, 3)


@of_squares
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_train_one_ranks_model_of_images(name, ranks):
    alone, together = fit(*FLAGS, "--model", name), fit(*FLAGS, "--model", name, ranks=ranks)
    assert alone.end["test_accuracy"] > 0.6
    assert any("running_var" in array for array in alone.arrays) == (name == "cnn")
    assert off(together, alone) <= 1e-10


def test_a_cnn_is_saved_with_its_running_statistics(tmp_path):
    run = fit(*FLAGS, "--model", "cnn")
    np.savez(tmp_path / "model.npz", **run.arrays)
    model = saved_model.load(str(tmp_path / "model.npz")).model
    assert all(buffer.dtype == np.float64 for buffer in model.buffers() if buffer.dtype.kind == "f")
    assert model.features[1].num_batches_tracked.item() == run.end["iterations"]
    with no_grad():
        assert model(np.zeros((1, 64))).shape == (1, 10)


@of_squares
@pytest.mark.parametrize(("size", "classes"), [(4, 2), (12, 2), (28, 10), (64, 1000), (12, 5000), (200, 2)])
def test_a_saved_model_of_images_has_no_fewer_numbers_than_are_asked_for(name, size, classes, monkeypatch):
    monkeypatch.setattr(saved_model, "NUMBERS_FREE", 0)
    found = sum(parameter.data.size for parameter in built(name, size * size, classes).parameters())
    description = {"model": name, "features": size * size, "classes": classes}
    saved_model._require_numbers("model.npz", description, found)
    with pytest.raises(InputError, match=rf"^model.npz: expected a {name} of at least \d+ parameters, got {found}$"):
        saved_model._require_numbers("model.npz", description | {"features": 10**16}, found)


def rising_or_falling(generator, count):
    """Return sequences that rise or fall, under noise, from anywhere; and which they do."""
    rises = generator.integers(0, 2, count)
    slopes = np.where(rises, 1, -1)[:, None, None] * np.linspace(0, 1, 9)[:, None]
    x = slopes + generator.standard_normal((count, 1, 2)) + 0.2 * generator.standard_normal((count, 9, 2))
    return Tensor(x.astype(np.float32)), rises


def test_a_gru_learns_which_sequences_rise():
    npdp.manual_seed(0)
    generator = np.random.default_rng(0)
    model = GRUClassifier(2, 2, hidden=8, layers=2, dropout=0.1)
    optimizer, criterion = optim.Adam(model.parameters(), lr=0.02), nn.CrossEntropyLoss()
    for _ in range(100):
        optimizer.zero_grad()
        inputs, labels = rising_or_falling(generator, 32)
        criterion(model(inputs), labels).backward()
        optimizer.step()
    inputs, labels = rising_or_falling(generator, 200)
    assert (model.eval()(inputs).data.argmax(1) == labels).mean() > 0.95
