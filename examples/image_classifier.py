"""A convolutional network for images, whose batch normalisation looks at the whole batch, however many ranks share it.

    python examples/image_classifier.py                             the digits in the package: 0.98 in seconds
    mpirun -n 2 python examples/image_classifier.py                 the same numbers
    python examples/image_classifier.py fashion-mnist/ --epochs 5   a folder of IDX files, as MNIST's

Ten samples of a batch on this rank and six on that are normalised by the mean and deviation of all sixteen, so P ranks
train the model of one. It is tested on all ranks together: each looks at its part, and what they saw is summed.
"""

import argparse

import numpy as np

import npdp
from npdp import nn, no_grad, optim
from npdp.data import DataLoader, sources
from npdp.models.cnn import CNN
from npdp.optim import learning_rates

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="digits", help="digits, or a folder of IDX files")
parser.add_argument("--epochs", type=int, default=10, help="passes over the images (10)")
flags = parser.parse_args()

npdp.init()
npdp.manual_seed(1)
data = sources.load(flags.data)  # pixels in [0, 1], flat: (samples, side * side)
side = round(data.train.sample_shape[0] ** 0.5)
model = CNN(side, data.classes)

loader = DataLoader(data.train, batch_size=64, shuffle=True, seed=1)
optimizer = optim.AdamW(model.parameters(), lr=learning_rates.cosine(3e-3, flags.epochs * len(loader)))
model, criterion = nn.DataParallel(model), nn.CrossEntropyLoss()

for epoch in range(flags.epochs):
    total = count = 0.0
    for images, labels in loader:
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    mean = npdp.global_mean(total / max(1, count), count)
    if npdp.rank() == 0:
        print(f"epoch {epoch + 1:2}  mean loss {mean:.3f}", flush=True)

model.eval()  # from here on by the running statistics of training
taken = np.zeros((data.classes, data.classes))  # [is, taken for], counted
with no_grad():
    for images, labels in DataLoader(data.test, batch_size=1000):
        np.add.at(taken, (labels.data, model(images).data.argmax(axis=1)), 1)
npdp.allreduce(taken)
if npdp.rank() == 0:
    accuracy, wrong = np.trace(taken) / taken.sum(), taken - np.diag(np.diag(taken))
    truth, guess = np.unravel_index(wrong.argmax(), wrong.shape)
    print(f"most often wrong: a {truth} is taken for a {guess}, {wrong.max():.0f} of {taken[truth].sum():.0f} times")
    print(f"{npdp.world_size()} ranks: test accuracy {accuracy:.4f}")
