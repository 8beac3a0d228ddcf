"""Data sets, the order in which samples come, and each rank's part of every global batch."""

from npdp.autograd.sparse_rows import SparseRows
from npdp.data.datasets import ArrayDataset
from npdp.data.loader import DataLoader
from npdp.data.sampler import epoch_order, local_rows
from npdp.data.sparse import SparseDataset

__all__ = ["ArrayDataset", "DataLoader", "SparseDataset", "SparseRows", "epoch_order", "local_rows"]
