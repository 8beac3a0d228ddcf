"""Names of `torch` itself, for programs that say `import npdp as torch`; npdp asks here for what it does not know.

    creation    tensor, zeros, randn, ...                  table       functions of tensors: exp, cat, softmax, ...
    dtypes      float32, long, device, finfo, ...          modes       no_grad, set_grad_enabled, compile, ...
    files       save, load                                 absent      cuda, backends: what a machine without has
"""

from __future__ import annotations

from typing import Any

from npdp.base.missing import missing


def find(name: str) -> Any:
    """Return what PyTorch has as `torch.<name>`; AttributeError where npdp has none, with what to write instead."""
    from npdp.torch_names import absent, creation, dtypes, files, functions, modes, table

    for module in (creation, functions, dtypes, modes, files, absent):
        if name in module.NAMES:
            return module.NAMES[name]
    if name in table.METHODS:
        return table.of_method(name)
    raise missing("npdp", name)
