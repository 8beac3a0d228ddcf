"""First steps: tensors, a two-layer net whose gradients are written by hand, a polynomial fitted in four ways."""

import math

import torch


def first_steps(given):
    x = torch.tensor(given["x"])
    y = x.T
    found = [torch.rand_like(x, dtype=torch.float).shape[0], x[..., -1].sum().item(), (x @ y).trace().item()]
    out = torch.empty(3, 3, dtype=torch.double)
    assert torch.matmul(y, x, out=out) is out
    x[:, 1] = 0
    joined = torch.cat([x, x, x], dim=1)
    found += [out.sum().item(), joined.norm().item(), torch.mul(x, x, out=torch.ones_like(x)).mean().item()]
    x.add_(5)
    shared = x.numpy()
    x.mul_(2)
    inp = torch.eye(4, 5, requires_grad=True, dtype=torch.double)
    for _ in range(2):
        powers = (inp + 1).pow(2).t()
        powers.backward(torch.ones_like(powers), retain_graph=True)
    found.append(inp.grad.sum().item())
    inp.grad.zero_()
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    (3 * a**3).backward(gradient=torch.tensor([1.0, 1.0]))
    assert (9 * a**2 == a.grad).all()
    return [*found, float(shared.sum()), inp.grad.sum().item(), f"{x.sum():.3f}" == f"{x.sum().item():.3f}"]


def net_by_hand(given):
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    w1, w2 = torch.tensor(given["w1"]), torch.tensor(given["w2"])
    losses = []
    for _ in range(10):
        h = x.mm(w1)
        h_relu = h.clamp(min=0)
        y_pred = h_relu.mm(w2)
        losses.append((y_pred - y).pow(2).sum().item())
        grad_y_pred = 2.0 * (y_pred - y)
        grad_w2 = h_relu.t().mm(grad_y_pred)
        grad_h = grad_y_pred.mm(w2.t()).clone()
        grad_h[h < 0] = 0
        w1 -= 1e-3 * x.t().mm(grad_h)
        w2 -= 1e-3 * grad_w2
    return losses


class Polynomial(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(()))
        self.b = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.a + self.b * x


def polynomials():
    x = torch.linspace(-math.pi, math.pi, 200, device=torch.device("cpu"), dtype=torch.float64)
    y = torch.sin(x)
    losses = []
    a, b = (torch.full((), v, dtype=torch.float64, requires_grad=True) for v in (0.1, -0.2))
    for _ in range(5):
        loss = (a + b * x + 0.3 * x**2 - y).pow(2).sum()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            a -= 1e-4 * a.grad
            b -= 1e-4 * b.grad
            a.grad = None
            b.grad = None
    xx = x.unsqueeze(-1).pow(torch.tensor([1, 2, 3]))
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0, 1)).double()
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(0.01)
    loss_fn = torch.nn.MSELoss(reduction="sum")
    for _ in range(5):
        loss = loss_fn(model(xx), y)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= 1e-7 * param.grad
    linear = model[0]
    losses += [linear.bias.item(), linear.weight[:, 0].item()]
    line = Polynomial().double()
    optimizer = torch.optim.SGD(line.parameters(), lr=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_fn(line(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, line.a.item(), line.b.item()]


def run(given):
    return [*first_steps(given), *net_by_hand(given), *polynomials()]
