"""Programs as PyTorch's tutorials write them run with npdp in its place: other imports, the same losses."""

import re
import types
from pathlib import Path

import numpy as np
import pytest

from npdp.base import random

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")

PROGRAMS = Path(__file__).parent / "torch_programs"
IMPORTS = [  # what a program changes, and all that it changes
    (r"^import torch$", "import npdp as torch"),
    (r"^import torch\.", "import npdp."),
    (r"^from torch\.utils\.data import", "from npdp.data import"),
    (r"^from torch", "from npdp"),
]


def program(name, of_npdp):
    text = (PROGRAMS / f"{name}.py").read_text()
    for before, after in IMPORTS if of_npdp else ():
        text = re.sub(before, after, text, flags=re.M)
    module = types.ModuleType(name)
    exec(compile(text, f"{name}.py", "exec"), vars(module))
    return module


def draws(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def values_for(module_name):
    """Return values for every parameter of the program's model, by PyTorch's names and shapes."""
    module = program(module_name, of_npdp=False)
    model = module.Net() if hasattr(module, "Net") else module.Model(11)
    rng = np.random.default_rng(1)
    drawn = {name: 0.3 * rng.standard_normal(tuple(p.shape)) for name, p in model.named_parameters()}
    names = [name for name in model.state_dict() if name in drawn or name == "lm_head.weight"]
    return {name: drawn.get(name, drawn.get("transformer.wte.weight")) for name in names}


GIVEN = {
    "tensors": lambda: dict(x=draws(8, 3), y=draws(8, 2), w1=draws(3, 5), w2=draws(5, 2)),
    "regression": lambda: dict(x=draws(30, 3), y=draws(30, 1)),
    "classifier": lambda: dict(x=draws(52, 2, 4), labels=np.arange(52) % 3, weights=values_for("classifier")),
    "bigram": lambda: dict(text="the quick brown fox jumps over the lazy dog. " * 8, table=draws(40, 40)),
    "transformer": lambda: dict(tokens=np.random.default_rng(0).integers(0, 11, (12, 7)),
                                weights=values_for("transformer")),
    "saving": lambda: dict(x=draws(20, 3), y=draws(20, 1), weights={
        "0.weight": draws(5, 3), "0.bias": draws(5), "2.weight": draws(1, 5), "2.bias": draws(1)}),
    "images": lambda: dict(x=draws(24, 1, 8, 8), labels=np.arange(24) % 3, weights=values_for("images")),
    "sequences": lambda: dict(tokens=np.random.default_rng(0).integers(0, 11, (12, 7)), labels=np.arange(12) % 2,
                              weights=values_for("sequences")),
    "gpt": lambda: dict(tokens=np.random.default_rng(0).integers(0, 11, (12, 7)), weights=values_for("gpt")),
    "schedules": lambda: dict(x=draws(20, 3), y=draws(20, 1), weights=values_for("schedules")),
}  # fmt: skip


@pytest.fixture
def the_same_draws(monkeypatch):
    """Give PyTorch npdp's draws: their generators differ, and nothing else is to."""
    import npdp
    from npdp.torch_names.creation import multinomial

    class Generator(npdp.Generator):
        pass

    def manual_seed(seed):
        random.manual_seed(seed)

    def randint(high, size):
        return torch.from_numpy(random.default_generator().integers(0, high, size))

    def randperm(n, generator=None):
        return torch.from_numpy(generator.numpy.permutation(n))

    def drawn(probs, num_samples):
        return torch.from_numpy(multinomial(probs.detach().numpy(), num_samples).numpy())

    for name, ours in dict(manual_seed=manual_seed, randint=randint, multinomial=drawn, Generator=Generator).items():
        monkeypatch.setattr(torch, name, ours)
    monkeypatch.setattr("torch.utils.data.dataset.randperm", randperm)


@pytest.mark.parametrize("name", GIVEN)
def test_a_program_gives_the_same_losses_with_only_its_imports_changed(name, the_same_draws):
    given = GIVEN[name]()
    theirs = program(name, of_npdp=False).run(given)
    ours = program(name, of_npdp=True).run(given)
    assert len(ours) == len(theirs) >= 10
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
