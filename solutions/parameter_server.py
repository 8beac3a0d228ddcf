class Server:
    def __init__(self, parameters, workers, learning_rate, staleness):
        self.parameters, self.learning_rate, self.staleness = parameters.copy(), learning_rate, staleness
        self.version, self.done = 0, [0] * workers

    def may_pull(self, worker):
        return self.done[worker] - min(self.done) <= self.staleness

    def pull(self, worker):
        return self.version, self.parameters.copy()

    def push(self, worker, version, gradient):
        staleness = self.version - version
        self.parameters -= self.learning_rate * gradient
        self.version += 1
        self.done[worker] += 1
        return staleness
