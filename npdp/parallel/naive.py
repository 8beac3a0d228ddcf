"""Naive data parallel training: average by hand, with one all-reduce a parameter.

    rank 0   part 0 of the batch → loss → gradient ┐
    rank 1   part 1              → loss → gradient ┼ sum of the gradients, each weighted n_r / N → the same step
    rank 2   part 2              → loss → gradient ┘

The real one, all_reduce.py, does the same in fewer messages, and some of them while backward goes on. Its tests compare
it with this one.
"""

from __future__ import annotations

import numpy as np

from npdp.parallel.strategy import Strategy


class Naive(Strategy):
    """Naive strategy: sums each gradient over the ranks, once backward has ended."""

    def exchange(self) -> None:
        used = np.array([parameter.raw_grad is not None for parameter in self.parameters], np.int32)
        self.communicator.allreduce(used)
        for parameter, ranks in zip(self.parameters, used):
            if ranks:  # at least one has used it: the others add zeros
                if parameter.raw_grad is None:
                    parameter.raw_grad = np.zeros_like(parameter.array)
                self.communicator.allreduce(parameter.raw_grad)
                self.exchanged_bytes += parameter.raw_grad.nbytes
