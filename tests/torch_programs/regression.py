"""Linear regression by hand, as tutorials begin: no module, no optimiser."""

import torch


def run(given):
    x = torch.tensor(given["x"], dtype=torch.float64)
    y = torch.tensor(given["y"]).to(torch.float64)
    w = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(1, dtype=torch.double, requires_grad=True)
    losses = []
    for step in range(20):
        loss = ((x @ w + b - y) ** 2).mean()
        loss.backward()
        if step % 2:
            with torch.no_grad():
                w -= 0.1 * w.grad
                b -= 0.1 * b.grad
            w.grad = None
            b.grad = None
        else:
            w.data -= 0.1 * w.grad.data
            b.data.sub_(0.1 * b.grad)
            w.grad.zero_()
            b.grad.data.zero_()
        losses.append(loss.item())
    scale = (torch.ones(2, 3, dtype=torch.float64) / 3).requires_grad_()
    (scale * scale).sum().backward()
    with torch.no_grad():
        scale -= 0.5 * scale.grad
        scale.grad.zero_()
    losses.append(scale.abs().sum().item() + scale.grad.norm().item() + w.norm().item())
    return losses
