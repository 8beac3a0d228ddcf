"""Parameter groups, learning-rate schedulers, clipping, a frozen layer, and an update by hand at the end."""

import torch
import torch.optim as optim
from torch import nn
from torch.optim.lr_scheduler import StepLR


class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
        self.head = nn.Linear(6, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.head(self.body(x)) * self.scale


def run(given):
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    net = Net().double()
    net.load_state_dict({name: torch.tensor(values) for name, values in given["weights"].items()})
    for param in net.body[0].parameters():
        param.requires_grad = False
    groups = [{"params": net.body[2].parameters(), "lr": 0.01}, {"params": [*net.head.parameters(), net.scale]}]
    optimizer = optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)
    scheduler = StepLR(optimizer, step_size=4, gamma=0.5)
    cosine = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    losses = []
    for epoch in range(12):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        losses.append(float(nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.5)))
        optimizer.step()
        (scheduler if epoch < 8 else cosine).step()
        losses += [loss.item(), optimizer.param_groups[0]["lr"]]
    losses.append(sum(p.grad.norm().item() ** 2 for p in net.parameters() if p.grad is not None) ** 0.5)
    for p in net.parameters():
        if p.grad is not None:
            p.data.add_(p.grad.data, alpha=-0.1)
    losses.append(max(p.data.abs().max().item() for p in net.parameters()))
    return losses
