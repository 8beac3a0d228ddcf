"""Freed memory is used again: a warm step fetches no page; where the user has told malloc something, that holds."""

import os
import platform
import subprocess
import sys

import pytest

from npdp.kernels import memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
MOST_FAULTS = 100  # of the 5,000 of activations and gradients of 1.5 MB in such a step
WARM_STEPS = """
import resource
import numpy as np
import npdp
from npdp import nn, optim

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def program():
    layers = [layer for _ in range(4) for layer in (nn.Linear(128, 512), nn.Tanh(), nn.Linear(512, 128))]
    model = nn.DataParallel(nn.Sequential(*layers))
    optimizer, criterion = optim.AdamW(model.parameters()), nn.MSELoss()
    x = np.ones((768, 128), np.float32)
    faults = []
    for _ in range(12):
        before = page_faults()
        loss = criterion(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        faults.append(page_faults() - before)
    return min(faults)
"""
ALONE, ON_THREADS = "print(program())", "print(max(npdp.run_ranks(2, program)))"


def run(program, **told):
    done = subprocess.run([sys.executable, "-c", program], env=environment(**told), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def environment(**told):
    """Return the environment with nothing in it that is told to malloc but this."""
    silent = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    return silent | told


@needs_glibc
@pytest.mark.parametrize("world", [ALONE, ON_THREADS], ids=["alone", "on threads"])
def test_a_warm_step_fetches_hardly_a_page(world):
    assert int(run(WARM_STEPS + world)) < MOST_FAULTS


@needs_glibc
@pytest.mark.parametrize(
    "told", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}]
)
def test_what_the_user_tells_malloc_holds(told):
    assert int(run(WARM_STEPS + ALONE, **told)) > MOST_FAULTS


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed.__wrapped__()
