"""A CNN with batch normalisation and pooling, as the image tutorials write it."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, kernel_size=3, stride=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2, 2)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(6 * 2 * 2, 3)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 1)
        x = F.avg_pool2d(x, 1)
        x = torch.flatten(x, 1)
        return self.fc(self.dropout(x))


def run(given):
    model = Net().double()
    model.load_state_dict({name: torch.tensor(values) for name, values in given["weights"].items()}, strict=False)
    x, y = torch.from_numpy(given["x"]), torch.tensor(given["labels"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    losses = []
    for epoch in range(4):
        model.train()
        for start in range(0, len(x), 8):
            optimizer.zero_grad()
            loss = criterion(model(x[start : start + 8]), y[start : start + 8])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            losses.append(criterion(model(x), y).item())
    return losses
