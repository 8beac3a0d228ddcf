"""An MLP classifier with a train and a test loop, as the quickstart has it: TensorDataset, random_split, DataLoader."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(16, 3)

    def forward(self, x):
        x = self.flatten(x)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


def train(loader, model, optimizer, losses):
    model.train()
    for data, target in loader:
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())


def test(loader, model):
    model.eval()
    correct, total = 0, 0.0
    with torch.no_grad():
        for data, target in loader:
            output = model(data.to(device))
            total += F.nll_loss(output, target, reduction="sum").item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
            _, predicted = torch.max(output.data, 1)
            correct += (predicted == target).type(torch.float).sum().item()
    return [total / len(loader.dataset), correct]


def run(given):
    torch.manual_seed(0)
    dataset = TensorDataset(torch.from_numpy(given["x"]), torch.tensor(given["labels"], dtype=torch.long))
    split = random_split(dataset, [0.75, 0.25], generator=torch.Generator().manual_seed(42))
    train_loader = DataLoader(split[0], batch_size=10, num_workers=0, pin_memory=False)
    test_loader = DataLoader(split[1], batch_size=7, drop_last=False)
    model = Net().double().to(device)
    model.load_state_dict({name: torch.tensor(values) for name, values in given["weights"].items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(3):
        train(train_loader, model, optimizer, losses)
        losses += test(test_loader, model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 8 * 16 + 16 + 16 * 3 + 3
    return losses
