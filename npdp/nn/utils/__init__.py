"""Clipping of gradients, and parameters as one vector: PyTorch's `nn.utils`."""

from npdp.nn.utils.clip import clip_grad_norm_, clip_grad_value_
from npdp.nn.utils.vectors import parameters_to_vector, vector_to_parameters

__all__ = ["clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "vector_to_parameters"]
