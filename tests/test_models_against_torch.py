"""CNNs with batch normalisation and recurrent classifiers, trained beside PyTorch's: the same losses all along."""

import numpy as np
import pytest
from against_torch import random

import npdp
from npdp import nn, optim
from npdp.autograd import Tensor

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
torch.set_num_threads(1)
ITERATIONS, BATCH, CLASSES = 50, 8, 3


def cnn(nn):
    """Return a CNN of the given package's layers."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding="same"), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5),
        nn.Tanh(), nn.Linear(5, CLASSES),
    )  # fmt: skip


def recurrent(kind):
    """Return what makes a classifier of the given package's layers, by the last step."""

    def make(nn):
        class Classifier(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = getattr(nn, kind)(4, 6, num_layers=2, batch_first=True)
                self.head = nn.Linear(6, CLASSES)

            def forward(self, x):
                return self.head(self.layers(x)[0][:, -1])

        return Classifier()

    return make


def in_groups(model):
    """Return matrices, which decay, and the rest."""
    parameters = list(model.parameters())
    return [dict(params=[p for p in parameters if len(p.shape) > 1], weight_decay=0.1),
            dict(params=[p for p in parameters if len(p.shape) == 1], weight_decay=0.0)]  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), [
    (cnn, (1, 10, 10)), (recurrent("GRU"), (5, 4)), (recurrent("LSTM"), (5, 4)),
], ids=["cnn", "gru", "lstm"])  # fmt: skip
def test_losses_of_fifty_iterations_are_pytorchs(make, shape):
    npdp.manual_seed(4)
    ours, theirs = make(nn), make(torch.nn).double()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    for tensor in (*ours.parameters(), *ours.buffers()):
        tensor.data = tensor.data.astype(np.float64) if tensor.dtype.kind == "f" else tensor.data
    mine, other = optim.AdamW(in_groups(ours), lr=0.01), torch.optim.AdamW(in_groups(theirs), lr=0.01)
    inputs = random(ITERATIONS, BATCH, *shape)
    labels = np.random.default_rng(1).integers(0, CLASSES, (ITERATIONS, BATCH))
    for x, y in zip(inputs, labels):
        loss = nn.CrossEntropyLoss()(ours(Tensor(x)), y)
        their_loss = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(y))
        assert loss.item() == pytest.approx(their_loss.item(), rel=1e-8)
        mine.zero_grad()
        other.zero_grad()
        loss.backward()
        their_loss.backward()
        optim.clip_grad_norm_(ours.parameters(), 0.5)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        mine.step()
        other.step()
    for name, values in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], values.numpy(), rtol=1e-7, atol=1e-9, err_msg=name)
