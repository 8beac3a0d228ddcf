"""Data sets, the order in which samples come, and each rank's part of every global batch."""

from typing import Any

from npdp.autograd.sparse_rows import SparseRows
from npdp.base.missing import missing
from npdp.data.composed import ConcatDataset, Subset, TensorDataset, random_split
from npdp.data.datasets import ArrayDataset
from npdp.data.loader import DataLoader, Dataset
from npdp.data.sampler import epoch_order, local_rows
from npdp.data.sparse import SparseDataset

__all__ = [
    "ArrayDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "SparseDataset",
    "SparseRows",
    "Subset",
    "TensorDataset",
    "epoch_order",
    "local_rows",
    "random_split",
]


def __getattr__(name: str) -> Any:
    raise missing("npdp.data", name)
