"""Data sets, the order in which samples come, and each rank's part of every global batch."""

from npdp.data.datasets import ArrayDataset
from npdp.data.loader import DataLoader
from npdp.data.sampler import epoch_order, local_rows

__all__ = ["ArrayDataset", "DataLoader", "epoch_order", "local_rows"]
