import numpy as np

import npdp


def average(mean, count):
    both = np.append(np.nan_to_num(mean) * count if count else np.zeros_like(mean), float(count))
    npdp.allreduce(both)
    return both[:-1] / both[-1]
