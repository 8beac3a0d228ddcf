"""npdp: data-parallel SGD on CPUs, from scratch on NumPy and MPI.

Public names are loaded when first used, so that `import npdp` costs next to nothing, never touches
MPI, and can still set the number of BLAS threads, which NumPy's BLAS reads once, when it is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from npdp.base.environment import is_one_of_several, set_blas_threads

__version__ = "0.1.0"

set_blas_threads()


def _end_all_ranks_on_exceptions() -> None:
    from npdp.comm.failures.ending import end_on_exceptions_before_init

    end_on_exceptions_before_init()


if is_one_of_several():
    _end_all_ranks_on_exceptions()

_HOME = {  # public name -> the module that defines it
    "Tensor": "npdp.autograd",
    "no_grad": "npdp.autograd",
    "manual_seed": "npdp.base.random",
    "init": "npdp.parallel.world",
    "rank": "npdp.parallel.world",
    "world_size": "npdp.parallel.world",
    "allreduce": "npdp.parallel.arrays",
    "reduce_scatter": "npdp.parallel.arrays",
    "allgather": "npdp.parallel.arrays",
    "broadcast": "npdp.parallel.arrays",
    "send": "npdp.parallel.arrays",
    "receive": "npdp.parallel.arrays",
    "barrier": "npdp.parallel.arrays",
    "global_mean": "npdp.parallel.arrays",
    "shared_empty": "npdp.parallel.arrays",
    "run_ranks": "npdp.parallel.world",
    "DistributedDataParallel": "npdp.parallel.data_parallel",
    "LocalSGD": "npdp.parallel.local_sgd",
    "ParameterServer": "npdp.parallel.parameter_server.strategy",
    "DistributedOptimizer": "npdp.parallel.distributed_optimizer",
    "broadcast_parameters": "npdp.parallel.replicas",
    "save_checkpoint": "npdp.elastic.checkpoint",
    "load_checkpoint": "npdp.elastic.checkpoint",
    "stop_requested": "npdp.elastic.stopping",
    "play": "npdp.app.playing",
    "InputError": "npdp.base.errors",
    "NotFiniteError": "npdp.base.errors",
}
_MODULES = {"saved_model": "npdp.app.saved_model"}
_NAMES_OF_TORCH = "npdp.torch_names"
_PACKAGES = ("autograd", "nn", "optim", "data", "kernels", "comm", "collectives", "parallel", "elastic")
_EXTRAS = ("torch", "utils")  # not among the names of `import *`, which would take the place of PyTorch's own

__all__ = ["__version__", *_HOME, *_MODULES, *_PACKAGES]  # noqa: PLE0604

if TYPE_CHECKING:
    from npdp.app.playing import play as play
    from npdp.autograd import Tensor as Tensor
    from npdp.autograd import no_grad as no_grad
    from npdp.base.errors import InputError as InputError, NotFiniteError as NotFiniteError
    from npdp.elastic.checkpoint import load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint
    from npdp.elastic.stopping import stop_requested as stop_requested
    from npdp.parallel.arrays import (
        allgather as allgather,
        allreduce as allreduce,
        barrier as barrier,
        broadcast as broadcast,
        global_mean as global_mean,
        receive as receive,
        reduce_scatter as reduce_scatter,
        send as send,
        shared_empty as shared_empty,
    )
    from npdp.parallel.data_parallel import DistributedDataParallel as DistributedDataParallel
    from npdp.parallel.distributed_optimizer import DistributedOptimizer as DistributedOptimizer
    from npdp.parallel.local_sgd import LocalSGD as LocalSGD
    from npdp.parallel.parameter_server.strategy import ParameterServer as ParameterServer
    from npdp.parallel.replicas import broadcast_parameters as broadcast_parameters
    from npdp.parallel.world import (
        init as init,
        rank as rank,
        run_ranks as run_ranks,
        world_size as world_size,
    )
    from npdp.base.random import manual_seed as manual_seed


def __getattr__(name: str) -> Any:
    if name in _PACKAGES or name in _EXTRAS:
        return import_module(f"npdp.{name}")
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name.startswith("_"):
        raise AttributeError(f"module 'npdp' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name) if name in _HOME else import_module(_NAMES_OF_TORCH).find(name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
