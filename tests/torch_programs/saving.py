"""Saving and loading a model and an optimiser, and going on from there."""

import os
import tempfile

import torch
from torch import nn


def steps(model, optimizer, x, y, losses, count):
    criterion = nn.MSELoss()
    for _ in range(count):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())


def run(given):
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    model.load_state_dict({name: torch.tensor(values) for name, values in given["weights"].items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    steps(model, optimizer, x, y, losses, 5)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.tar")
        state = {"epoch": 5, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "loss": losses[-1]}
        torch.save(state, path)
        torch.save(model.state_dict(), os.path.join(folder, "model.pth"))
        checkpoint = torch.load(path, weights_only=True, map_location=torch.device("cpu"))
        other = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(torch.float64)
        other.load_state_dict(torch.load(os.path.join(folder, "model.pth"), weights_only=True))
    optimizer = torch.optim.Adam(other.parameters(), lr=0.5)
    other.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    steps(other, optimizer, x, y, losses, 5)
    return [*losses, float(checkpoint["epoch"]), checkpoint["loss"]]
