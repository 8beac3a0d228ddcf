"""npdp for programs that stay with PyTorch: DistributedDataParallel's gradients averaged in shared memory.

    model = torch.nn.parallel.DistributedDataParallel(model)
    model.register_comm_hook(npdp.torch.state(), npdp.torch.allreduce_hook)

Loaded by `import npdp.torch` alone; it needs PyTorch (the extra `torch`).
"""

from npdp.torch.hook import State, allreduce_hook, state

__all__ = ["State", "allreduce_hook", "state"]
