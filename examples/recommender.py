"""What will a user think of a film? Learned from a few ratings of each user, where the truth is known.

    python examples/recommender.py
    mpirun -n 4 python examples/recommender.py         the same numbers

    rating = the user's 4 numbers . the film's 4 numbers + noise of 0.1         30 ratings a user, of 2,000 films

A batch touches few rows of the two tables. They are trained twice, by the same steps of SGD:

    dense, all-reduce            gradients are as large as the tables, and are summed as a whole
    sparse, parameter server     gradients are rows that a batch touched; each rank also serves a part of the tables

Sparse costs more for each row, and nothing for all others: see --users 1000000 --ratings 300000 --epochs 1.
Source: Koren, Bell, Volinsky, Matrix factorization techniques for recommender systems, 2009.
"""

import argparse
import time

import numpy as np

import npdp
from npdp import nn, no_grad, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.optim import learning_rates

FILMS, WIDTH, NOISE = 2000, 4, 0.1
BATCH, LR = 1000, 50.0  # a loss is the mean of 1000 ratings, but a row is moved only by the few that touch it

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--users", type=int, default=5000, help="(5000)")
parser.add_argument("--ratings", type=int, default=150_000, help="of all users together (150000)")
parser.add_argument("--epochs", type=int, default=20, help="passes over the ratings (20)")
flags = parser.parse_args()


class Tables(nn.Module):
    """WIDTH numbers for each user and each film; a rating is their product."""

    def __init__(self, sparse, scale):
        self.users = nn.Embedding(flags.users, WIDTH, sparse=sparse)
        self.films = nn.Embedding(FILMS, WIDTH, sparse=sparse)
        for table in (self.users, self.films):
            table.weight.data *= scale

    def forward(self, pairs):  # (batch, 2): user, film
        return (self.users(pairs[:, 0]) * self.films(pairs[:, 1])).sum(1, keepdim=True)


def pairs(count):
    return np.stack([generator.integers(flags.users, size=count), generator.integers(FILMS, size=count)], axis=1)


def error(model):
    """Return the root of the mean squared error against the truth; collective, each rank looks at its pairs."""
    mine = slice(npdp.rank(), None, npdp.world_size())
    with no_grad():
        wrong = model(asked[mine]).data - answers[mine]
    return npdp.global_mean(float((wrong**2).mean()), len(wrong)) ** 0.5


def train(name, model, strategy):
    loader = DataLoader(ratings, batch_size=BATCH, shuffle=True, seed=1)
    optimizer = optim.SGD(model.parameters(), lr=learning_rates.cosine(LR, flags.epochs * len(loader)))
    model, criterion = nn.DataParallel(model, strategy=strategy), nn.MSELoss()
    begun = time.perf_counter()
    for _ in range(flags.epochs):
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ms = (time.perf_counter() - begun) * 1000 / flags.epochs / len(loader)
    off = error(model)
    if npdp.rank() == 0:
        print(f"{name}: error {off:.4f} ({ms:.1f} ms an update)", flush=True)


npdp.init()
generator = np.random.default_rng(0)
npdp.manual_seed(0)
truth = Tables(sparse=False, scale=WIDTH**-0.25)  # so that ratings have a deviation of 1
seen, asked = pairs(flags.ratings), pairs(20_000)
with no_grad():
    exact, answers = truth(seen).data, truth(asked).data
ratings = ArrayDataset(seen, (exact + NOISE * generator.standard_normal(exact.shape)).astype(np.float32))
if npdp.rank() == 0:
    print(f"{npdp.world_size()} ranks: ratings have a deviation of {answers.std():.4f}, and noise of {NOISE}")

npdp.manual_seed(1)
train("dense, all-reduce       ", Tables(sparse=False, scale=0.5), strategy=None)
npdp.manual_seed(1)  # the same first values
train("sparse, parameter server", Tables(sparse=True, scale=0.5), npdp.ParameterServer(servers=0))
