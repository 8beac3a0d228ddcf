"""The training loop that one writes in PyTorch, with its imports changed.

    python examples/linear_regression.py                  one rank
    mpirun -n 4 python examples/linear_regression.py      four: the same numbers

Ten features, one answer with known weights; after ten epochs the weights found are compared with the true ones.
"""

import numpy as np

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader

world = npdp.init()

generator = np.random.default_rng(0)
true_weight = generator.standard_normal((1, 10)).astype(np.float32)
x = generator.standard_normal((1000, 10)).astype(np.float32)  # (samples, features)
y = x @ true_weight.T + 0.5 + 0.1 * generator.standard_normal((1000, 1)).astype(np.float32)  # (samples, 1)
dataset = ArrayDataset(x, y)

model = nn.Linear(10, 1)
criterion = nn.MSELoss()
optimizer = optim.SGD(model.parameters(), lr=0.01)
dataloader = DataLoader(dataset, batch_size=32, shuffle=True)  # batch_size is global
model = nn.DataParallel(model)
for epoch in range(10):
    for inputs, labels in dataloader:
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        optimizer.zero_grad()
        loss.backward()  # gradients leave here as the exact mean over the global batch
        optimizer.step()
    mean = npdp.global_mean(loss.item(), len(labels))  # collective: every rank calls it, one says it
    if npdp.rank() == 0:
        print(f"epoch {epoch + 1:2}  loss of the last batch {mean:.4f}")

error = np.abs(model.module.weight.data - true_weight).max()
if npdp.rank() == 0:
    print(f"{npdp.world_size()} ranks: largest error of a weight {error:.3f}")
