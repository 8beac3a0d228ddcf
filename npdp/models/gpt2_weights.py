"""Weights of GPT-2, as the package `transformers` saves them, in a `GPT`.

    transformers                        here
    wte.weight, wpe.weight              tokens.weight, positions.weight
    h.0.ln_1, h.0.ln_2, ln_f            blocks.0.norm1, blocks.0.norm2, norm
    h.0.attn.c_attn, h.0.attn.c_proj    blocks.0.attention.qkv, blocks.0.attention.out      weights (in, out) there
    h.0.mlp.c_fc, h.0.mlp.c_proj        blocks.0.mlp.0, blocks.0.mlp.2                      and (out, in) here
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.models.gpt import GPT

HEAD_WIDTH = 64  # of every GPT-2
RENAMED = {
    r"^wte\.": "tokens.", r"^wpe\.": "positions.", r"^ln_f\.": "norm.", r"^h\.": "blocks.",
    r"\.ln_([12])\.": r".norm\1.", r"\.attn\.c_attn\.": ".attention.qkv.", r"\.attn\.c_proj\.": ".attention.out.",
    r"\.mlp\.c_fc\.": ".mlp.0.", r"\.mlp\.c_proj\.": ".mlp.2.",
}  # fmt: skip
TURNED = re.compile(r"(qkv|out|mlp\.[02])\.weight$")
NOT_TRAINED = re.compile(r"\.attn\.(masked_)?bias$")  # the causal mask


def from_safetensors(path: str, heads: int | None = None) -> GPT:
    """Return a GPT with the weights of a `GPT2LMHeadModel`, from a file of `save_pretrained`.

    Args:
        path: model.safetensors.
        heads: of each attention; the width over 64 where None, as in every GPT-2.

    Raises:
        InputError: no such file, or it is no GPT-2's.
        ImportError: the package safetensors is not installed.
    """
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise ImportError("from_safetensors needs the package safetensors: pip install safetensors") from None
    try:
        arrays = load_file(path)
    except Exception as error:  # its own errors, of several kinds
        raise InputError(f"{path}: cannot be read: {error}") from None
    return from_arrays(arrays, path, heads)


def from_arrays(arrays: Mapping[str, Array], source: str, heads: int | None = None) -> GPT:
    """Return a GPT with weights of GPT-2 by their names in `transformers`; InputError where they are no GPT-2's."""
    state = {_renamed(name): values for name, values in arrays.items() if not NOT_TRAINED.search(name)}
    state = {name: values.T if TURNED.search(name) else values for name, values in state.items()}
    try:
        (vocabulary, width), context = state["tokens.weight"].shape, len(state["positions.weight"])
    except (KeyError, ValueError):
        got = ", ".join(list(arrays)[:3])
        raise InputError(f"{source}: expected the weights of a GPT2LMHeadModel, got {got}") from None
    layers = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=-1)
    model = GPT(vocabulary, context, layers, heads or max(1, width // HEAD_WIDTH), width)
    state["head.weight"] = state["tokens.weight"]
    try:
        model.load_state_dict(state)
    except (KeyError, ValueError) as error:
        raise InputError(f"{source}: {error}") from None
    return model.eval()  # type: ignore[return-value]


def _renamed(name: str) -> Any:
    name = name.removeprefix("transformer.").replace("lm_head.", "head.")
    for pattern, new in RENAMED.items():
        name = re.sub(pattern, new, name)
    return name
