"""The kernels' border: what does not fit is refused with wanted and got, and NPDP_KERNELS chooses."""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from kernel_calls import adam_update, each_implementation, needs_compiled, sgd_update

from npdp import kernels


def floats(count=4):
    return np.ones(count, np.float32)


def read_only(array):
    array.flags.writeable = False
    return array


def misaligned():
    return np.zeros(17, np.uint8)[1:].view(np.float32)


@pytest.mark.parametrize(
    ("dst", "src", "error", "words"),
    [
        (floats(4), floats(5), ValueError, r"src is float32\[5\], wanted float32\[4\] like dst"),
        (floats(4), np.ones(4), ValueError, r"src is float64\[4\], wanted float32\[4\] like dst"),
        (floats(8)[::2], floats(4), ValueError, r"dst is strided \(8 bytes from element to element\), wanted"),
        (floats(4), floats(8)[::2], ValueError, "src is strided"),
        (floats(4), floats(4)[::-1], ValueError, "src is strided"),
        (read_only(floats()), floats(), ValueError, "dst is read-only, wanted writeable"),
        (misaligned(), floats(), ValueError, "dst is not aligned to its 4-byte elements"),
        (floats(), misaligned(), ValueError, "src is not aligned"),
        (floats().reshape(2, 2), floats().reshape(2, 2), ValueError, r"dst is of shape \(2, 2\), wanted 1-D"),
        (np.float32(1), np.float32(1), TypeError, "dst is float32, wanted a NumPy array"),
        ([1.0], [1.0], TypeError, "dst is list, wanted a NumPy array"),
        (floats(), None, TypeError, "src is NoneType, wanted a NumPy array"),
        (np.ones(4, np.float16), np.ones(4, np.float16), TypeError, "dst is float16, wanted one of float32, float64"),
        (np.ones(4, ">f4"), np.ones(4, ">f4"), TypeError, "dst is >f4, wanted one of"),
        (np.ones(4, bool), np.ones(4, bool), TypeError, "dst is bool"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused_with_wanted_and_got(dst, src, error, words):
    with pytest.raises(error, match=f"accumulate: {words}"):
        kernels.accumulate(dst, src)


def test_an_unknown_op_is_refused():
    with pytest.raises(ValueError, match="op is 'mean', wanted one of sum, prod, min, max"):
        kernels.accumulate(floats(), floats(), "mean")


@each_implementation
def test_arrays_that_overlap_are_reported_and_left_alone(kernel):
    memory = np.arange(30.0)
    here, near, far, away = memory[:10], memory[9:19], memory[20:], np.ones(10)
    assert kernel.accumulate(here, near, "sum") == kernel.accumulate(near, here, "sum") == 1
    for arrays in [(here, near, far), (here, far, near), (far, here, near), (here, here, far)]:
        assert sgd_update(kernel, *arrays, momentum=0.9) == 1
    for first, second in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]:
        arrays = [far, away, np.ones(10), np.ones(10)]
        arrays[first], arrays[second] = here, near
        assert adam_update(kernel, *arrays) == 1
    np.testing.assert_array_equal(memory, np.arange(30.0))
    assert kernel.accumulate(here, memory[10:20], "sum") == 0  # neighbours do not overlap


@each_implementation
def test_an_update_of_a_sum_keeps_its_arrays(kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_selected", lambda: kernel)
    param = floats()
    arrays = [floats(), floats()]
    kept = [weakref.ref(array) for array in arrays]
    update = kernels.sgd_updater(param, kernels.Sum(arrays))
    del arrays
    assert all(array() is not None for array in kept)
    del update
    gc.collect()
    assert all(array() is None for array in kept)


@each_implementation
def test_without_velocity_momentum_is_0(kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_selected", lambda: kernel)
    ones = np.ones(100_000)
    for grad in (2 * ones, kernels.Sum([ones, ones])):
        param = ones.copy()
        assert kernels.sgd_updater(param, grad)(0.5, 0.9, 1.0, 0.0, False, False) == 0
        np.testing.assert_array_equal(param, np.zeros_like(ones))


def test_overlap_is_refused():
    memory = np.ones(10)
    with pytest.raises(ValueError, match="dst and src overlap in part"):
        kernels.accumulate(memory[:6], memory[4:])


def test_updates_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"sgd_updater: velocity is float32\[3\], wanted float32\[4\] like param"):
        kernels.sgd_updater(floats(), floats(), floats(3))
    with pytest.raises(ValueError, match="sgd_updater: velocity is read-only"):
        kernels.sgd_updater(floats(), floats(), read_only(floats()))
    with pytest.raises(TypeError, match=r"sgd_updater: param is int32, wanted one of float32, float64$"):
        kernels.sgd_updater(*(np.ones(4, np.int32) for _ in range(3)))
    with pytest.raises(ValueError, match=r"adam_updater: grad is float32\[5\], wanted float32\[4\] like param"):
        kernels.adam_updater(floats(), floats(5), floats(), floats())


def test_what_is_only_read_may_be_read_only():
    dst = floats()
    kernels.accumulate(dst, read_only(floats()))
    np.testing.assert_array_equal(dst, 2 * floats())
    assert kernels.sgd_updater(dst, read_only(floats()))(1, 0, 1, 0, False, True) == 0
    np.testing.assert_array_equal(dst, floats())
    shared = read_only(floats())
    assert len(kernels.Sum([shared, shared, read_only(floats())]).arrays) == 3


@each_implementation
def test_what_is_written_may_not_be_read_only_though_it_is_read_too(kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_selected", lambda: kernel)
    x = read_only(floats())
    with pytest.raises(ValueError, match="accumulate: dst is read-only, wanted writeable"):
        kernels.accumulate(x, x)
    with pytest.raises(ValueError, match="combine: target is read-only, wanted writeable"):
        kernels.combine([x], [x, floats()])
    np.testing.assert_array_equal(x, floats())


def test_every_name_of_a_64_bit_integer_is_taken():
    for name in ("l", "q", "int64"):
        if np.dtype(name).itemsize == 8:
            dst = np.ones(3, name)
            kernels.accumulate(dst, np.ones(3, "int64"))
            assert dst.tolist() == [2, 2, 2]


def test_empty_arrays_are_taken_and_nothing_beside_them_is_written():
    around = np.arange(1, 5, dtype=np.float32)
    empty = around[2:2]
    for op in kernels.OPS:
        kernels.accumulate(empty, empty[:], op)
    adam_update(kernels, empty, empty, empty, empty, decoupled=True)
    assert around.tolist() == [1, 2, 3, 4]


# ---- the choice of implementation


def run(code, environment):
    variables = {name: value for name, value in os.environ.items() if name != "NPDP_KERNELS"} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60)


HIDE_COMPILED = "import sys; sys.modules['npdp.kernels._compiled'] = None\n"
FIRST_USE = """
import numpy as np
from npdp import kernels
for _ in range(3):
    kernels.accumulate(np.ones(3), np.ones(3))
print(kernels.backend())
"""


def test_the_environment_chooses_numpy_silently():
    result = run(HIDE_COMPILED + FIRST_USE, {"NPDP_KERNELS": "numpy"})
    assert (result.stdout, result.stderr) == ("numpy\n", "")


@needs_compiled
@pytest.mark.parametrize("environment", [{}, {"NPDP_KERNELS": ""}, {"NPDP_KERNELS": "c"}], ids=str)
def test_c_is_taken_where_it_is_compiled(environment):
    result = run(FIRST_USE, environment)
    assert (result.stdout, result.stderr) == ("c\n", "")


def test_without_compiled_kernels_numpy_is_taken_with_one_warning_that_says_what_to_do():
    result = run(HIDE_COMPILED + FIRST_USE, {})
    assert result.stdout == "numpy\n"
    assert result.stderr.count("RuntimeWarning") == 1
    assert "install a C compiler" in result.stderr


@pytest.mark.parametrize("lines", [
    "import numpy as np; from npdp import kernels\nkernels.accumulate(np.ones(3), np.ones(3))  # user's\n",
    "import npdp; from npdp import nn\ncriterion = nn.CrossEntropyLoss()\n"
    "criterion(npdp.Tensor([[1.0, 2.0]]), npdp.Tensor([1]))  # user's\n",
    "import npdp\nnpdp.run_ranks(2, lambda: npdp.barrier())  # user's\n",
])  # fmt: skip
def test_the_warning_shows_the_users_line(lines, tmp_path):
    (tmp_path / "program.py").write_text(HIDE_COMPILED + lines)
    result = run(f"import runpy; runpy.run_path({str(tmp_path / 'program.py')!r})", {})
    assert result.returncode == 0 and result.stderr.count("RuntimeWarning") == 1, result.stderr
    assert "program.py:" in result.stderr and "# user's" in result.stderr, result.stderr


@pytest.mark.parametrize(("rank", "times"), [(0, 1), (1, 0)])
def test_the_first_rank_warns_for_all(rank, times):
    result = run(HIDE_COMPILED + FIRST_USE, {"PMI_RANK": str(rank), "PMI_SIZE": "2"})
    assert result.stdout == "numpy\n" and result.stderr.count("RuntimeWarning") == times


def test_demanding_c_where_it_is_not_compiled_is_an_import_error():
    result = run(HIDE_COMPILED + FIRST_USE, {"NPDP_KERNELS": "c"})
    assert result.returncode == 1
    assert "ImportError: NPDP_KERNELS=c, but npdp's C kernels are not compiled" in result.stderr


def test_an_unknown_choice_is_refused():
    result = run(FIRST_USE, {"NPDP_KERNELS": "fortran"})
    assert "ValueError: NPDP_KERNELS is 'fortran', wanted c or numpy" in result.stderr
