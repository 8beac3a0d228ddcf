"""GRU classifier: one answer for a whole sequence, of speech or of measurements.

    x (batch, time, features) -> GRU, both directions -> (batch, time, 2 * hidden) -> mean over time -> classes

The mean hears the whole sequence; its last state alone would have to remember the beginning. An image is a sequence,
too: of its rows, from the top.
Source: Cho et al., Learning phrase representations using RNN encoder-decoder, 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp import nn


class GRUClassifier(nn.Module):
    """Classifier of sequences, all as long within a batch.

    Args:
        features: of one step.
        classes: outputs, one logit each.
        hidden: width of the states, in each direction.
        layers: recurrent layers, one above the other.
        dropout: the part that is dropped between layers and before the classes.
    """

    def __init__(self, features: int, classes: int, hidden: int = 64, layers: int = 1, dropout: float = 0.0) -> None:
        self.gru = nn.GRU(features, hidden, layers, batch_first=True, dropout=dropout, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: Any) -> Any:
        """Return logits, (batch, classes); x (batch, time, features), or flattened."""
        steps = int(np.prod(x.shape[1:])) // self.gru.input_size
        outputs, _ = self.gru(x.reshape(len(x), steps, self.gru.input_size))
        return self.head(self.dropout(outputs.mean(1)))
