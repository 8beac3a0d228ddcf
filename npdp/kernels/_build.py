"""The recipe by which cffi makes `npdp.kernels._compiled` out of `csrc/`.

setup.py names it: `cffi_modules=["npdp/kernels/_build.py:ffibuilder"]`. It is not imported at run time. In place, for
those who work on npdp: `python setup.py build_ext --inplace`.

The headers are both what the compiler includes and, without their preprocessor lines, what cffi binds.
Through setuptools the module uses Python's stable ABI (`_compiled.abi3.so`): one file for all Python versions.

The flags, and why no others:
    -O3                  turns the plain loops into vectors;
    -ffp-contract=off    no fused multiply-add, but where products ask for one: C and NumPy give the same bits, on
                         every processor;
    -fno-math-errno      sqrt becomes an instruction (it would have to set errno); results do not change.
    -fno-trapping-math   a choice by a comparison becomes vector instructions and no branch, as nobody asks which
                         exceptions were raised; results do not change.
No -march=native: the machine that builds is not the one that runs (csrc/internal.h picks the vector width at
run time). No -Ofast: it reorders sums.
"""

from pathlib import Path

import cffi  # type: ignore[import-untyped,unused-ignore]

CSRC = Path(__file__).resolve().parents[2] / "csrc"
HEADERS = ("npdp_kernels.h", "npdp_layers.h", "gemm/npdp_gemm.h", "npdp_shared_memory.h", "npdp_mailbox.h")

ffibuilder = cffi.FFI()
for header in HEADERS:
    lines = (CSRC / header).read_text().splitlines()
    ffibuilder.cdef("\n".join(line for line in lines if not line.startswith("#")))
ffibuilder.set_source(
    "npdp.kernels._compiled",
    "\n".join(f'#include "{header}"' for header in HEADERS),
    # relative to setup.py, as setuptools demands
    sources=[
        "csrc/accumulate.c",
        "csrc/activations.c",
        "csrc/bytes.c",
        "csrc/update.c",
        "csrc/combine.c",
        "csrc/cross_entropy.c",
        "csrc/elementary.c",
        "csrc/layer_norm.c",
        "csrc/looking.c",
        "csrc/softmax.c",
        "csrc/rows.c",
        "csrc/gemm/amx.c",
        "csrc/gemm/avx2.c",
        "csrc/gemm/avx512.c",
        "csrc/processor.c",
        "csrc/shared_memory.c",
        "csrc/mailbox.c",
    ],
    include_dirs=["csrc"],
    depends=[str(header.relative_to(CSRC.parent)) for header in CSRC.rglob("*.h")],
    libraries=["m"],
    extra_compile_args=["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
)
