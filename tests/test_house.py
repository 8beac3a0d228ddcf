"""The house stands as the README draws it: imports go down only, the halves never meet, one place for each thing.

    6  app bench report grading
    5  elastic torch
    4  parallel models torch_names
    3  nn optim data                   |  collectives
    2  autograd                        |  comm
    1  kernels base
       ---- arithmetic ----               ---- communication ----
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import npdp

ROOT = Path(__file__).parent.parent / "npdp"

BELOW = {"kernels", "base"}
ARITHMETIC = ["autograd", "nn", "optim", "data"]
TOP = {"app", "bench", "report", "grading", "train", "__main__"}
BELOW_TOP = {*ARITHMETIC, "models", "comm", "collectives", "parallel", "elastic"}

# part -> the parts that it may import, besides itself
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "kernels": {"base"},
    "autograd": BELOW,
    "nn": BELOW | {"autograd"},
    "optim": BELOW | {"autograd", "nn"},
    "models": BELOW | {"autograd", "nn"},
    "data": BELOW | {"autograd"},
    "comm": BELOW,
    "collectives": BELOW | {"comm"},
    "parallel": BELOW | {*ARITHMETIC, "comm", "collectives"},
    "elastic": BELOW | {"torch_names", *BELOW_TOP} - {"elastic"},
    "torch": BELOW | {"comm", "collectives", "parallel"},
    "report": {"base"},
    **{part: BELOW | BELOW_TOP | TOP | {""} for part in TOP - {"report"}},
    "utils": {"data"},
    "torch_names": BELOW | {*ARITHMETIC},
    "": {"base"},  # npdp/__init__.py itself
}

# (file, what it does there) -> why it may
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("nn/__init__.py", "parallel"): "nn.DataParallel is PyTorch's name for it, loaded when it is asked for",
    ("nn/parallel.py", "parallel"): "nn.parallel.DistributedDataParallel likewise is PyTorch's name for it",
    ("data/sampler.py", "parallel"): "a loader makes the world where nobody has, as a model does",
    ("__init__.py", "comm"): "an exception before init() must end all ranks, too",
    ("comm/failures/missing.py", "writes"): "for whom MPI waits: it must be said before there is a world",
    ("comm/failures/stalls.py", "writes"): "which rank is late: any rank that waits says it, in the middle of a call",
    ("comm/failures/ending.py", "writes"): "a failing rank's traceback: nobody else is left to print it",
}

LONGEST_LINES = 300


class Violation(NamedTuple):
    file: str
    line: int
    what: str
    part: str  # the key in EXCEPTIONS, with the file


class Import(NamedTuple):
    line: int
    name: str  # dotted


def part_of(file: str) -> str:
    """Return the part of the house that a file is, by its path under npdp/; "" for npdp/__init__.py."""
    first = file.split("/")[0].removesuffix(".py")
    return "" if first == "__init__" else first


def parse(file: str, source: str) -> ast.Module:
    """Return the tree without what stands under `if TYPE_CHECKING:`, which is not imported when it runs."""

    class Run(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                return node.orelse or ast.Pass()
            return self.generic_visit(node)

    return Run().visit(ast.parse(source, file))


def imports(file: str, tree: ast.Module) -> Iterator[Import]:
    """Yield every import, at the top or in a function, by its full name; of `from npdp import x` it is npdp.x."""
    package = ["npdp", *file.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            constants = [name for name in node.args[:1] if isinstance(name, ast.Constant)]
            yield from (Import(node.lineno, str(name.value)) for name in constants)


def check_imports(file: str, tree: ast.Module) -> Iterator[Violation]:
    """Down only, never across; mpi4py and the compiled kernels in their one place."""
    here = part_of(file)
    for line, name in imports(file, tree):
        words = name.split(".")
        if words[0] == "mpi4py" and file != "comm/mpi.py":
            yield Violation(file, line, "imports mpi4py, which is for comm/mpi.py", "mpi4py")
        if "_compiled" in words and here != "kernels":
            yield Violation(file, line, "imports the compiled kernels, which is for kernels/", "_compiled")
        if words[0] != "npdp":
            continue
        there = words[1] if len(words) > 1 and words[1] in MAY_IMPORT else ""
        if there != here and there not in MAY_IMPORT.get(here, set()):
            yield Violation(file, line, f"{here or 'npdp/__init__'} imports {name}", there)


def check_words(file: str, tree: ast.Module) -> Iterator[Violation]:
    """Only report/ and app/cli.py print, or write to the terminal."""
    if part_of(file) == "report" or file == "app/cli.py":
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        if function == "print" or function.startswith(("sys.stdout.write", "sys.stderr.write", "sys.__std")):
            yield Violation(file, node.lineno, f"calls {function}", "writes")


def check_length(file: str, source: str) -> Iterator[Violation]:
    """No file is longer than 300 lines without a reason (`Longer than ...: why`) in its head."""
    lines = len(source.splitlines())
    head = ast.get_docstring(ast.parse(source)) or ""
    if lines > LONGEST_LINES and "longer than" not in head.lower():
        yield Violation(file, lines, f"has {lines} lines and no reason in its head", "length")


def violations(sources: dict[str, str]) -> list[Violation]:
    """Return what is wrong with the files of a house, by path under npdp/."""
    found: list[Violation] = []
    for file, source in sources.items():
        tree = parse(file, source)
        if part_of(file) not in MAY_IMPORT:
            found.append(Violation(file, 1, f"{part_of(file)} has no place in the house", "place"))
        found += [*check_imports(file, tree), *check_words(file, tree), *check_length(file, source)]
    return found


@pytest.fixture(scope="module")
def house() -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def test_the_house_is_as_it_is_drawn(house):
    assert len(house) > 50
    wrong = [found for found in violations(house) if (found.file, found.part) not in EXCEPTIONS]
    assert not wrong, "\n".join(f"npdp/{found.file}:{found.line} {found.what}" for found in wrong)


def test_every_exception_is_still_needed(house):
    used = {(found.file, found.part) for found in violations(house)}
    assert set(EXCEPTIONS) <= used
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())


def test_exceptions_across_the_halves_are_lazy(house):
    for file, part in EXCEPTIONS:
        if part == "writes":
            continue
        at_the_top = [node for node in parse(file, house[file]).body if not isinstance(node, ast.FunctionDef)]
        assert not list(check_imports(file, ast.Module(at_the_top, []))), file


def test_no_part_imports_one_that_imports_it():
    """The drawing itself has no circle below the top."""
    for part, others in MAY_IMPORT.items():
        for other in others - TOP - {""}:
            assert part in TOP or part not in MAY_IMPORT[other], f"{part} and {other}"


def test_the_halves_are_apart_in_the_drawing():
    for part in ARITHMETIC:
        assert not MAY_IMPORT[part] & {"comm", "collectives", "parallel"}
    for part in ("comm", "collectives"):
        assert not MAY_IMPORT[part] & {*ARITHMETIC, "parallel"}


@pytest.mark.parametrize(("file", "source", "said"), [
    ("nn/layers.py", "from npdp.comm import transport", "nn imports npdp.comm.transport"),
    ("nn/layers.py", "import npdp.parallel.world", "nn imports npdp.parallel.world"),
    ("nn/layers.py", "from npdp import collectives", "nn imports npdp.collectives"),
    ("nn/layers.py", "def f():\n    from npdp.optim import SGD", "nn imports npdp.optim.SGD"),
    ("nn/layers.py", "from ..comm import mpi", "nn imports npdp.comm.mpi"),
    ("nn/layers.py", "from .. import parallel", "nn imports npdp.parallel"),
    ("nn/layers.py", "import importlib\nimportlib.import_module('npdp.train')", "nn imports npdp.train"),
    ("autograd/tensor.py", "from npdp.nn import Linear", "autograd imports npdp.nn.Linear"),
    ("data/loader.py", "from npdp.nn import Module", "data imports npdp.nn.Module"),
    ("collectives/ring.py", "from npdp.autograd import Tensor", "collectives imports npdp.autograd.Tensor"),
    ("comm/mpi.py", "from npdp.collectives import ring", "comm imports npdp.collectives.ring"),
    ("kernels/__init__.py", "from npdp.autograd import Tensor", "kernels imports npdp.autograd.Tensor"),
    ("parallel/world.py", "from npdp.report.console import refuse", "parallel imports npdp.report.console.refuse"),
    ("report/console.py", "from npdp.parallel import world", "report imports npdp.parallel.world"),
    ("base/errors.py", "import npdp", "base imports npdp"),
    ("__init__.py", "from npdp.autograd import Tensor", "npdp/__init__ imports npdp.autograd.Tensor"),
    ("app/train.py", "from mpi4py import MPI", "imports mpi4py"),
    ("comm/threads.py", "def f():\n    import mpi4py.MPI", "imports mpi4py"),
    ("optim/sgd.py", "from npdp.kernels import _compiled", "imports the compiled kernels"),
    ("optim/sgd.py", "from npdp.kernels._compiled import lib", "imports the compiled kernels"),
    ("optim/sgd.py", "if True:\n    print('loss')", "calls print"),
    ("app/train.py", "import sys\nsys.stdout.write('x')", "calls sys.stdout.write"),
    ("comm/mpi.py", "import sys\ndef f():\n    sys.stderr.write('x')", "calls sys.stderr.write"),
    ("optim/sgd.py", "x = 1\n" * 301, "has 301 lines and no reason in its head"),
    ("magic/spell.py", "", "magic has no place in the house"),
])  # fmt: skip
def test_a_planted_violation_is_found(file, source, said):
    assert said in " ".join(found.what for found in violations({file: source}))


@pytest.mark.parametrize(("file", "source"), [
    ("nn/layers.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from npdp.parallel import world"),
    ("nn/layers.py", "from npdp.base import random\nfrom npdp.autograd import Tensor\nfrom . import module"),
    ("comm/mpi.py", "from mpi4py import MPI"),
    ("kernels/compiled.py", "from npdp.kernels._compiled import lib"),
    ("app/launch.py", "PROGRAM = 'from mpi4py import MPI; print(MPI)'"),
    ("report/console.py", "print('done')"),
    ("app/train.py", "from npdp.report.console import Console\nfrom npdp import nn, __version__"),
    ("optim/sgd.py", '"""SGD. Longer than 300 lines: one table."""\n' + "x = 1\n" * 300),
])  # fmt: skip
def test_what_is_allowed_is_not_found(file, source):
    assert not violations({file: source})


def test_what_loads_public_names_and_what_type_checkers_read_name_the_same():
    nodes = ast.walk(ast.parse((ROOT / "__init__.py").read_text()))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names if alias.asname} == npdp._HOME
