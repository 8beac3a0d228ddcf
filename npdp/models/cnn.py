"""CNN: a small convolutional network for images, LeNet-5's shape with today's parts.

                          28 x 28 pixels             8 x 8 pixels
    convolution 5 x 5     6 maps of 28 x 28          6 of 8 x 8
    max pooling           6 of 14 x 14               6 of 4 x 4
    convolution 5 x 5     16 of 10 x 10              16 of 4 x 4      an image that is small keeps its border
    max pooling           16 of 5 x 5 = 400          16 of 2 x 2 = 64
    linear layers         120, 84, classes

Behind each convolution come batch normalisation and ReLU, where LeNet-5 had tanh: it learns at larger learning rates.
Source: LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998.
"""

from __future__ import annotations

from typing import Any

from npdp import nn

KERNEL, SMALLEST = 5, 4  # pixels a side


class CNN(nn.Module):
    """Classifier of square images.

    Args:
        size: pixels a side, at least 4.
        classes: outputs, one logit each.
        channels: of an image, 1 for shades of grey.
    """

    def __init__(self, size: int, classes: int, channels: int = 1) -> None:
        self.shape = channels, size, size
        pooled = size // 2
        keeps_border = pooled < KERNEL + 1  # else nothing were left to pool
        last = (pooled if keeps_border else pooled - KERNEL + 1) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, KERNEL, padding="same"),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, KERNEL, padding="same" if keeps_border else "valid"),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * last * last, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, images: Any) -> Any:
        """Return logits, (batch, classes); images (batch, channels, size, size), or flattened."""
        images = images.reshape(len(images), *self.shape)
        return self.classifier(self.features(images))
