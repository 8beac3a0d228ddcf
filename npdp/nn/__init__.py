"""Layers, losses and the modules that hold them, under PyTorch's names."""

from typing import TYPE_CHECKING, Any

from npdp.base.missing import missing
from npdp.nn import functional, init, parallel, utils
from npdp.nn.activations import ELU, GELU, SiLU, Softplus
from npdp.nn.batch_norm import BatchNorm1d, BatchNorm2d
from npdp.nn.convolution import Conv1d, Conv2d
from npdp.nn.cross_entropy import CrossEntropyLoss, NLLLoss
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
from npdp.nn.losses import BCEWithLogitsLoss, HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from npdp.nn.module import Module
from npdp.nn.multihead import CausalSelfAttention, MultiheadAttention
from npdp.nn.normalization import LayerNorm, RMSNorm
from npdp.nn.parameter import Parameter
from npdp.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool1d, MaxPool2d
from npdp.nn.pytorch_names import ModuleDict
from npdp.nn.recurrent import GRU, LSTM
from npdp.nn.sparse import Embedding, SparseLinear
from npdp.nn.sparse_parameter import SparseParameter

if TYPE_CHECKING:
    from npdp.parallel.data_parallel import DataParallel as DataParallel

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "CausalSelfAttention",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "DataParallel",
    "Dropout",
    "Embedding",
    "Flatten",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "SparseLinear",
    "SparseParameter",
    "Tanh",
    "functional",
    "init",
    "parallel",
    "utils",
]


def __getattr__(name: str) -> Any:
    if name == "DataParallel":  # PyTorch's place for it; it lives where the two halves meet
        from npdp.parallel.data_parallel import DataParallel

        return DataParallel
    raise missing("npdp.nn", name)
