"""Names of `torch` that npdp has: values, gradients, dtypes are PyTorch's; what is missing is told by name."""

import sys
from importlib import import_module

import numpy as np
import pytest

import npdp
from npdp.base.missing import MISSING
from npdp.torch_names import creation, dtypes, functions, table

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")

X = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4))
Y = np.random.default_rng(1).uniform(1.2, 2.9, (3, 4))
CUBE = np.random.default_rng(2).uniform(0.2, 0.9, (2, 3, 4))
ROW = np.arange(1.0, 5.0)
MASK = X > 0.5
WHOLE = np.array([[1, 0, 2, 2], [0, 1, 1, 3], [3, 3, 0, 1]])

X_TAKING = """
abs exp log log1p log2 log10 expm1 sqrt rsqrt square sin cos tanh sigmoid relu neg reciprocal sign floor ceil round
trunc
isnan isinf isfinite logical_not sum mean var std norm any all argmax argmin amax amin max min sort argsort
count_nonzero nonzero unique flatten squeeze t tril triu diag diagonal trace clone detach numel absolute negative
is_tensor
"""
X_AND_Y = """
add sub mul div maximum minimum logical_and logical_or logical_xor eq ne lt le gt ge equal allclose isclose pow max min
subtract multiply divide true_divide greater less not_equal floor_divide
"""

PACKAGES = [module for module in MISSING if module.startswith("npdp")]

# (name, arguments, options): arrays become tensors, of which floats have a gradient
CALLS = [
    *((name, (X,), {}) for name in X_TAKING.split()), *((name, (X, Y), {}) for name in X_AND_Y.split()),
    *((name, (CUBE,), dict(dim=dim)) for dim in (0, 1, -1) for name in (
        "sum", "mean", "var", "std", "norm", "argmax", "argmin", "amax", "amin", "max", "min", "sort", "argsort",
        "cumsum", "logsumexp", "softmax", "log_softmax", "any", "all", "count_nonzero", "unbind")),
    *((name, (CUBE, 1, True), {}) for name in ("sum", "mean", "amax", "max", "argmax", "logsumexp", "any")),
    ("var", (CUBE, 1), dict(unbiased=False)), ("std", (CUBE,), dict(dim=(0, 2), keepdim=True, correction=0)),
    *(("norm", (CUBE,), options) for options in (dict(p=1), dict(p=3, dim=1), dict(p=float("inf")), dict(p=2, dim=(0,
1)))),
    ("clamp", (X, 0.3, 0.6), {}), ("clip", (X,), dict(min=0.5)), ("pow", (X, 3), {}), ("lerp", (X, Y, 0.3), {}),
    ("addcmul", (X, Y, Y), dict(value=0.5)), ("addcdiv", (X, Y, Y), dict(value=0.5)), ("add", (X, Y), dict(alpha=2)),
    ("masked_fill", (X, MASK, -1.0), {}), ("masked_select", (X, MASK), {}), ("where", (MASK, X, Y), {}),
    ("where", (MASK, X, 0.0), {}), ("where", (MASK,), {}), ("topk", (CUBE, 2), {}),
    ("topk", (X, 2), dict(largest=False, dim=0)),
    ("sort", (X,), dict(dim=0, descending=True)), ("argsort", (X, -1, True), {}),
    ("bincount", (WHOLE[0],), dict(minlength=6)),
    ("matmul", (X, Y.T), {}), ("mm", (X, Y.T), {}), ("bmm", (CUBE, CUBE.transpose(0, 2, 1).copy()), {}),
    ("mv", (X, ROW), {}), ("dot", (ROW, ROW), {}), ("outer", (ROW, X[0]), {}), ("addmm", (X[:, :3], X, Y.T), {}),
    ("baddbmm", (CUBE @ CUBE.transpose(0, 2, 1), CUBE, CUBE.transpose(0, 2, 1).copy()), dict(beta=0.5, alpha=2)),
    ("einsum", ("ij,kj->ik", X, Y), {}), ("einsum", ("bij,bkj->bik", CUBE, CUBE), {}), ("einsum", ("ij->j", X), {}),
    ("einsum", ("ij,ij", X, Y), {}), ("einsum", ("i,j->ij", ROW, X[0]), {}), ("einsum", ("ij,kl->il", X, Y), {}),
    ("cat", ([X, Y],), dict(dim=1)), ("cat", ([X, Y, np.zeros(0)], 0), {}), ("stack", ([X, Y],), dict(dim=-1)),
    ("concat", ([X, Y],), {}), ("concatenate", ([X, Y],), dict(axis=1)), ("vstack", ([ROW, X],), {}),
    ("hstack", ([X, Y],), {}), ("hstack", ([ROW, ROW],), {}),
    ("flatten", (CUBE, 1), {}), ("unflatten", (X, 1, (2, 2)), {}), ("reshape", (CUBE, (-1, 4)), {}),
    *((name, (CUBE, 0, 2), {}) for name in ("transpose", "swapaxes", "swapdims")), ("permute", (CUBE, (2, 0, 1)), {}),
    ("squeeze", (CUBE[:, :1], 1), {}), ("unsqueeze", (X, -1), {}), ("tril", (X, -1), {}),
    ("triu", (X,), dict(diagonal=1)),
    ("diag", (ROW,), {}), ("diag", (ROW, -2), {}), ("diag", (X, 1), {}), ("flip", (CUBE, (0, 2)), {}),
    ("roll", (X, 1, 0), {}),
    ("roll", (X, 5), {}), ("split", (CUBE, 2, 2), {}), ("split", (X, [1, 3]), dict(dim=1)), ("chunk", (X, 3, 1), {}),
    ("narrow", (X, 1, 1, 2), {}), ("select", (CUBE, 1, 2), {}), ("index_select", (X, 0, WHOLE[0]), {}),
    ("gather", (X, 1, WHOLE), {}), ("take_along_dim", (X, WHOLE, 1), {}), ("broadcast_to", (ROW, (3, 4)), {}),
    ("repeat_interleave", (X, 2, 1), {}), ("detach", (X,), {}),
    ("softmax", (X.astype(np.float32), 1), dict(dtype="float64")), ("is_floating_point", (WHOLE,), {}),
]  # fmt: skip


def of(module, given, dtype):
    """Return arguments as tensors of a library, and those that have a gradient."""
    leaves = []

    def made(value):
        if isinstance(value, list) and isinstance(value[0], np.ndarray):
            return [made(part) for part in value]
        if not isinstance(value, np.ndarray):
            return value
        floats = value.dtype.kind == "f"
        tensor = module.tensor(value.astype(dtype) if floats else value, requires_grad=floats)
        leaves.extend([tensor] if floats else [])
        return tensor

    return [made(value) for value in given], leaves


def parts(answer):
    return list(answer) if isinstance(answer, (tuple, list)) else [answer]


def assert_same(ours, theirs, tolerance):
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs
        return
    assert isinstance(ours, npdp.Tensor) and str(theirs.dtype) == f"torch.{ours.dtype}"
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "given", "options"), CALLS, ids=[f"{name}{i}" for i, (name, *_) in enumerate(CALLS)])
def test_a_function_gives_what_pytorch_s_gives(name, given, options, dtype):
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    answers, all_leaves = [], []
    for module in (npdp, torch):
        arguments, leaves = of(module, given, dtype)
        named = {k: getattr(module, v) if k == "dtype" else v for k, v in options.items()}
        answers.append(parts(getattr(module, name)(*arguments, **named)))
        all_leaves.append(leaves)
    assert len(answers[0]) == len(answers[1])
    for ours, theirs in zip(*answers):
        assert_same(ours, theirs, tolerance)
    recorded = [npdp.is_tensor(ours) and ours.requires_grad for ours in answers[0]]  # not that of a step function
    for module, answer in zip((npdp, torch), answers):
        if any(recorded):
            trained = [x for x, wanted in zip(answer, recorded) if wanted]
            sum((x * module.arange(1, x.numel() + 1).reshape(x.shape)).sum() for x in trained).backward()
    for ours, theirs in zip(*all_leaves):
        if theirs.grad is None or not theirs.numel():
            assert ours.grad is None or not ours.grad.any()
        else:
            np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_every_function_is_compared():
    called = {name for name, *_ in CALLS}
    assert table.METHODS - called == set()
    assert set(functions.NAMES) - called == {"set_printoptions"}


CREATIONS = [
    ("tensor", (3,), {}), ("tensor", (2.5,), {}), ("tensor", (True,), {}), ("tensor", ([[1, 2], [3, 4]],), {}),
    ("tensor", ([1, 2.5],), {}), ("tensor", ([1, 2],), dict(dtype="float64")), ("tensor", (X,), dict(dtype="float32")),
    ("tensor", ([0.6, 1.7],), dict(dtype="int64")), ("tensor", ([],), {}), ("as_tensor", ([1, 2],), {}),
    ("from_numpy", (WHOLE,), {}), ("asarray", (X,), {}), ("scalar_tensor", (2.0,), {}), ("zeros", (2, 3), {}),
    ("zeros", ((2, 3),), dict(dtype="int32")), ("zeros", (), dict(size=(2,))), ("ones", (2,), dict(dtype="bool")),
    ("full", ((2, 3), 7), {}), ("full", ((2,), 7.5), {}), ("full", ((), True), {}), ("eye", (3,), {}),
    ("eye", (2, 3), {}),
    ("arange", (5,), {}), ("arange", (2, 9, 3), {}), ("arange", (0, 1, 0.25), {}),
    ("arange", (3,), dict(dtype="float64")),
    ("linspace", (0, 1, 5), {}), ("linspace", (-1.0, 2.0), dict(steps=7)), ("zeros_like", (X,), {}),
    ("ones_like", (WHOLE,), {}), ("full_like", (X, 3.0), {}), ("zeros_like", (X,), dict(dtype="int64")),
    ("meshgrid", (WHOLE[0], WHOLE[1, :2]), dict(indexing="ij")),
    ("meshgrid", (WHOLE[0], WHOLE[1]), dict(indexing="xy")),
]  # fmt: skip
DRAWS = [
    ("rand", (200, 3)), ("randn", (200, 3)), ("randint", (5, (200,))), ("randint", (-2, 5, (200,))),
    ("randperm", (200,)),
    ("rand_like", (X,)), ("randn_like", (X,)), ("randint_like", (WHOLE, 9)), ("bernoulli", (np.full((300, 2), 0.5),)),
    ("multinomial", (np.tile(ROW, (50, 1)), 2)), ("multinomial", (ROW, 90, True)), ("empty", (2, 3)),
    ("empty_like", (X,)),
    ("normal", (0.5, 2.0, (300,))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "options"), CREATIONS)
def test_a_new_tensor_is_pytorch_s(name, given, options):
    answers = []
    for module in (npdp, torch):
        named = {k: getattr(module, v) if k == "dtype" else v for k, v in options.items()}
        needs = name.endswith("_like") or name == "meshgrid"
        arguments = [module.tensor(x) if needs and isinstance(x, np.ndarray) else x for x in given]
        answers.append(parts(getattr(module, name)(*arguments, **named)))
    for ours, theirs in zip(*answers):
        assert_same(ours, theirs, 1e-7)


@pytest.mark.parametrize(("name", "given"), DRAWS)
def test_drawn_tensors_have_pytorch_s_shape_dtype_and_moments_and_are_drawn_again(name, given):
    ours, theirs = (
        getattr(module, name)(*(module.tensor(x) if isinstance(x, np.ndarray) else x for x in given))
        for module in (npdp, torch)
    )
    assert ours.shape == tuple(theirs.shape) and str(theirs.dtype) == f"torch.{ours.dtype}"
    if not name.startswith("empty") and ours.numel() >= 100:
        a, b = ours.double(), theirs.double()
        assert abs(a.mean().item() - b.mean().item()) < 0.5 * b.std().item()
        assert 0.6 < a.std().item() / b.std().item() < 1.6
    npdp.manual_seed(3)
    first = npdp.rand(4)
    npdp.manual_seed(3)
    assert npdp.equal(first, npdp.rand(4)) and not npdp.equal(first, npdp.rand(4))


def test_every_creation_is_compared():
    assert set(creation.NAMES) - {name for name, *_ in [*CREATIONS, *DRAWS]} == {"Generator", "seed", "initial_seed"}


def test_elements_are_drawn_as_often_as_their_weights_say():
    npdp.manual_seed(0)
    weights = npdp.tensor([1.0, 0.0, 2.0, 1.0])
    once = npdp.multinomial(weights, 20_000, replacement=True)
    np.testing.assert_allclose(np.bincount(once.numpy(), minlength=4) / 20_000, [0.25, 0, 0.5, 0.25], atol=0.02)
    pairs = npdp.multinomial(weights.expand(20_000, 4), 2)
    assert (pairs[:, 0] != pairs[:, 1]).all().item() and not (pairs == 1).any().item()
    np.testing.assert_allclose(np.bincount(pairs[:, 0].numpy(), minlength=4) / 20_000, [0.25, 0, 0.5, 0.25], atol=0.02)
    second = np.bincount(pairs[:, 1].numpy(), minlength=4) / 20_000  # P(0) = 1/2 1/2 + 1/4 1/3
    np.testing.assert_allclose(second, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.02)


def test_an_element_of_weight_0_is_never_drawn():
    class AtTheEnds(npdp.Generator):
        def random(self, size):  # a draw of 0 itself, which is rare
            return np.zeros(size)

    generator = AtTheEnds()
    generator.numpy = generator
    assert npdp.multinomial(npdp.tensor([0.0, 1.0]), 1, generator=generator).tolist() == [1]
    for weights, said in (([1.0, -1], "not negative"), ([0.0, 0], "not all 0"), ([1.0, float("nan")], "finite")):
        with pytest.raises(ValueError, match=f"multinomial: wanted weights .*{said}"):
            npdp.multinomial(npdp.tensor(weights), 1)
    with pytest.raises(ValueError, match="wanted at least 2 weights above 0 in each row, or replacement=True"):
        npdp.multinomial(npdp.tensor([0.0, 1.0]), 2)


def test_a_generator_s_draws_are_a_function_of_its_seed():
    once, again = (npdp.randn(3, generator=npdp.Generator().manual_seed(7)) for _ in range(2))
    assert npdp.equal(once, again)
    assert not npdp.equal(once, npdp.randn(3, generator=npdp.Generator("cpu").manual_seed(8)))


@pytest.mark.parametrize("name", [name for name in dtypes.NAMES if isinstance(dtypes.NAMES[name], np.dtype)])
def test_a_dtype_by_name_is_pytorch_s(name):
    assert f"torch.{getattr(npdp, name)}" == str(getattr(torch, name))
    assert str(torch.zeros(2).to(getattr(torch, name)).dtype) == f"torch.{npdp.zeros(2).to(getattr(npdp, name)).dtype}"


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in PACKAGES for name in MISSING[module]])
def test_a_name_that_is_missing_says_what_to_write_instead(module, name):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute '{name}': .+"):
        getattr(import_module(module), name)


@pytest.mark.parametrize(("thing", "owner"), [(npdp.Tensor(0.0), "Tensor"), (npdp.nn.Identity(), "Module")])
def test_a_method_that_is_missing_says_what_to_write_instead(thing, owner):
    for name in MISSING[owner]:
        assert not hasattr(thing, name)
        with pytest.raises(AttributeError, match=f"^{owner} has no {name}: .+"):
            getattr(thing, name)


@pytest.mark.parametrize("module", PACKAGES)
def test_any_other_name_is_no_attribute(module):
    with pytest.raises(AttributeError, match=f"^module '{module}' has no attribute 'nonsense'$"):
        import_module(module).nonsense  # noqa: B018


def test_there_are_cpus_only():
    assert not npdp.cuda.is_available() and npdp.cuda.device_count() == 0 and not npdp.backends.mps.is_available()
    npdp.backends.cuda.matmul.allow_tf32 = npdp.backends.cudnn.benchmark = True
    assert npdp.device("cpu").type == "cpu" == str(npdp.zeros(2).device) and not npdp.zeros(2).is_cuda
    with pytest.raises(AttributeError, match="npdp.cuda has no Stream: npdp computes on CPUs"):
        npdp.cuda.Stream()
    for wanted in (lambda: npdp.device("cuda:0"), lambda: npdp.zeros(2, device="cuda"), lambda: npdp.zeros(2).to("mps"),
                   lambda: npdp.nn.Linear(2, 2).to("cuda")):  # fmt: skip
        with pytest.raises(ValueError, match='npdp computes on CPUs, wanted "cpu", got'):
            wanted()


def test_threads_of_products_are_those_of_the_environment_and_a_limit_needs_a_package(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert npdp.get_num_threads() == 3 and npdp.set_num_threads(3) is None
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(RuntimeError, match="threadpoolctl; or start the program with OPENBLAS_NUM_THREADS=1"):
        npdp.set_num_threads(1)


def test_recording_is_switched_as_in_pytorch():
    x = npdp.ones(2, requires_grad=True)
    with npdp.no_grad():
        assert not (x * 2).requires_grad
        with npdp.enable_grad():
            assert (x * 2).requires_grad
        with npdp.set_grad_enabled(True):
            assert (x * 2).requires_grad
        assert not npdp.is_grad_enabled()
    with npdp.inference_mode():
        assert not (x * 2).requires_grad
    npdp.set_grad_enabled(False)
    assert not npdp.is_grad_enabled()
    npdp.set_grad_enabled(True)
    assert npdp.inference_mode()(lambda: (x * 2).requires_grad)() is False
    assert npdp.compile(abs) is abs and npdp.compile(mode="max-autotune")(abs) is abs
