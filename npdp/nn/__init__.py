"""Layers, losses and the modules that hold them, under PyTorch's names."""

from typing import TYPE_CHECKING, Any

from npdp.nn import functional
from npdp.nn.activations import ELU, GELU, SiLU, Softplus
from npdp.nn.dropout import Dropout
from npdp.nn.layers import (
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    LogSoftmax,
    ModuleList,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from npdp.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from npdp.nn.module import Module
from npdp.nn.multihead import CausalSelfAttention, MultiheadAttention
from npdp.nn.normalization import LayerNorm, RMSNorm
from npdp.nn.parameter import Parameter
from npdp.nn.sparse import Embedding, SparseLinear
from npdp.nn.sparse_parameter import SparseParameter

if TYPE_CHECKING:
    from npdp.parallel.data_parallel import DataParallel as DataParallel

__all__ = [
    "ELU",
    "GELU",
    "BCEWithLogitsLoss",
    "CausalSelfAttention",
    "CrossEntropyLoss",
    "DataParallel",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SparseLinear",
    "SparseParameter",
    "Tanh",
    "functional",
]


def __getattr__(name: str) -> Any:
    if name == "DataParallel":  # PyTorch's place for it; it lives where the two halves meet
        from npdp.parallel.data_parallel import DataParallel

        return DataParallel
    raise AttributeError(f"module 'npdp.nn' has no attribute {name!r}")
