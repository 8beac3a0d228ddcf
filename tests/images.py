"""Models of images and sequences, and their training for so many iterations: the same on one rank and on many."""

import numpy as np
from worlds import parameters, train_on

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader

ITERATIONS = 30
SAMPLES, CLASSES = 25, 3  # parts of a batch are uneven, some empty: the last of 12 has 1 sample, of 7 it has 4


def cnn():
    """Return a small CNN with batch normalisation and dropout."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, dtype=np.float64), nn.BatchNorm2d(3, dtype=np.float64), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, dtype=np.float64), nn.BatchNorm2d(4, dtype=np.float64), nn.Tanh(),
        nn.AvgPool2d(2, 1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3, dtype=np.float64),
    )  # fmt: skip


class Recurrent(nn.Module):
    """A GRU of two layers and two directions, with dropout, an LSTM behind it, and a layer on its last step."""

    def __init__(self):
        self.gru = nn.GRU(2, 3, 2, batch_first=True, dropout=0.2, bidirectional=True, dtype=np.float64)
        self.lstm = nn.LSTM(6, 3, batch_first=True, dtype=np.float64)
        self.head = nn.Linear(3, CLASSES, dtype=np.float64)

    def forward(self, x):
        _, (h, _) = self.lstm(self.gru(x)[0])
        return self.head(h[-1])


SHAPES = {cnn: (2, 6, 6), Recurrent: (4, 2)}


def program(way, make, batch_size):
    """Train a model; return its parameters and buffers."""
    generator = np.random.default_rng(5)
    data = ArrayDataset(generator.standard_normal((SAMPLES, *SHAPES[make])), generator.integers(0, CLASSES, SAMPLES))
    npdp.manual_seed(1)
    model = make()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    wrapped = way.wrap(model)
    batches = DataLoader(data, batch_size, shuffle=True, seed=2)
    done = 0
    while done < ITERATIONS:
        for inputs, labels in batches:
            train_on(wrapped, optimizer, inputs, labels)
            done += 1
    return parameters(wrapped) | {name: np.array(buffer.data) for name, buffer in model.named_buffers()}
