import numpy as np


class Trainer:
    """SGD with momentum on ten samples, three at a time, in a new order each epoch."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.x = np.random.default_rng(0).standard_normal((10, 2))
        self.y = self.x @ np.array([1.0, -2.0])
        self.w, self.velocity = np.zeros(2), np.zeros(2)
        self.order = []  # of the samples left in this epoch

    def step(self):
        """Do a step; return its samples and the parameters after it."""
        if not self.order:
            self.order = self.generator.permutation(10).tolist()
        batch, self.order = self.order[:3], self.order[3:]
        error = self.x[batch] @ self.w - self.y[batch]
        self.velocity = 0.9 * self.velocity + self.x[batch].T @ error / len(batch)
        self.w = self.w - 0.1 * self.velocity
        return batch, self.w

    def state(self):
        """Return all that the next steps need, as JSON has it."""
        return {
            "w": self.w.tolist(),
            "velocity": self.velocity.tolist(),
            "order": self.order,
            "generator": self.generator.bit_generator.state,
        }


def resumed(state):
    """Return a Trainer that goes on from a state."""
    trainer = Trainer(seed=0)
    trainer.w, trainer.velocity = np.array(state["w"]), np.array(state["velocity"])
    trainer.order = state["order"]
    trainer.generator.bit_generator.state = state["generator"]
    return trainer
