import numpy as np


class Compressor:
    def __init__(self, count, k):
        self.k, self.left = k, np.zeros(count)

    def compress(self, gradient):
        self.left += gradient
        indices = np.argpartition(np.abs(self.left), -self.k)[-self.k :]
        values = self.left[indices]
        self.left[indices] = 0
        return indices, values
