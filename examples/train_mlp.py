"""A network with two hidden layers and dropout on the digits, with everything that `npdp.train` does written out.

    python examples/train_mlp.py
    mpirun -n 4 python examples/train_mlp.py         the same losses: dropout's masks do not depend on the ranks
"""

import npdp
from npdp import nn, no_grad, optim
from npdp.data import DataLoader, sources
from npdp.optim import learning_rates

EPOCHS, BATCH = 10, 64

world = npdp.init()
npdp.manual_seed(1)
data = sources.load("digits")

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
loader = DataLoader(data.train, batch_size=BATCH, shuffle=True, seed=1)
lr_schedule = learning_rates.warm_up(learning_rates.cosine(3e-3, EPOCHS * len(loader)), iterations=len(loader))
optimizer = optim.AdamW(model.parameters(), lr=lr_schedule)
model = npdp.DistributedDataParallel(model)
criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

for epoch in range(EPOCHS):
    total = count = 0.0
    for inputs, labels in loader:
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)  # the norm of the global gradient, the same on every rank
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    mean = npdp.global_mean(total / max(1, count), count)
    if npdp.rank() == 0:
        print(f"epoch {epoch + 1:2}  mean loss {mean:.4f}")

model.eval()
with no_grad():
    inputs, labels = data.test.take(slice(npdp.rank(), None, npdp.world_size()))  # this rank's part of the test set
    right = float((model(inputs).data.argmax(axis=1) == labels).mean()) if len(labels) else 0.0
accuracy = npdp.global_mean(right, len(labels))
if npdp.rank() == 0:
    print(f"{npdp.world_size()} ranks: test accuracy {accuracy:.4f}")
