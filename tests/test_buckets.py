"""Gradients leave in buckets while backward goes on, once what they hold is complete."""

import numpy as np
import pytest
from worlds import criterion, loader, mlp, record, run

from npdp import nn, optim


def test_buckets_leave_while_backward_goes_on():
    def program():
        model = nn.DataParallel(mlp(), bucket_cap_mb=1e-6)
        recorder = record()
        sent_before = []
        dict(model.named_parameters())["0.weight"].register_hook(lambda g: sent_before.append(len(recorder.sent)))
        inputs, labels = next(iter(loader(4)))
        criterion(model(inputs), labels).backward()
        return sent_before[0], len(recorder.sent)

    for before, after in run(2, program, algorithm="ring"):
        assert 0 < before < after


def test_a_bucket_ends_where_it_has_reached_its_size():
    def sizes(**options):
        return run(1, lambda: [len(b.parameters) for b in nn.DataParallel(mlp(), **options).strategy.buckets])[0]

    assert sizes() == [4]
    assert sizes(bucket_cap_mb=1e-6) == [1, 1, 1, 1]
    assert sizes(first_bucket_mb=1e-6) == [1, 3]
    for cap in (0, -1):
        with pytest.raises(ValueError, match="bucket_cap_mb must be above 0, a bucket holds something, got"):
            sizes(bucket_cap_mb=cap)


@pytest.mark.parametrize("bucket_cap_mb", [1e-6, 25])
def test_no_two_buckets_share_an_element_and_all_trained_parameters_are_in_one(bucket_cap_mb):
    def program():
        model = mlp()
        model[0].bias = nn.Parameter(model[0].bias.data, requires_grad=False)
        optim.SGD(model.parameters())  # lays all of them flat, the frozen one in the middle as well
        wrapped = nn.DataParallel(model, bucket_cap_mb=bucket_cap_mb)
        covered = [np.zeros_like(flat.grad) for flat in wrapped.strategy.flats]
        for bucket in wrapped.strategy.buckets:
            start = (bucket.buffer.ctypes.data - bucket.flat.grad.ctypes.data) // bucket.buffer.itemsize
            covered[wrapped.strategy.flats.index(bucket.flat)][start : start + bucket.buffer.size] += 1
        found = [id(p) for bucket in wrapped.strategy.buckets for p in bucket.parameters]
        return covered, sorted(found) == sorted(id(p) for p in wrapped.parameters() if p.requires_grad)

    covered, complete = run(1, program)[0]
    assert complete and all((times <= 1).all() and times.any() for times in covered)
