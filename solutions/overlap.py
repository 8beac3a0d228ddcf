import numpy as np

BUCKET = 5000  # parameters: 4 ms on the way, beside 2 ms that each all-reduce costs


def backward(layers, compute, begin, wait):
    totals, under_way, held = [None] * len(layers), [], []
    for layer in reversed(range(len(layers))):
        held.append((layer, compute(layer)))
        if sum(len(gradient) for _, gradient in held) >= BUCKET or layer == 0:
            under_way.append((begin(np.concatenate([gradient for _, gradient in held])), held))
            held = []
    for number, bucket in under_way:
        total = wait(number)
        for layer, gradient in bucket:
            totals[layer], total = total[: len(gradient)], total[len(gradient) :]
    return totals
