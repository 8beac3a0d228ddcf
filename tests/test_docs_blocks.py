"""Each block of code in the docs runs, those of a page in one program; command lines have flags that exist."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from docs_pages import PAGES, ROOT, blocks, name_of

import npdp
from npdp.app import config
from npdp.bench import flags as bench_flags

DOCS = ROOT / "docs"
MODEL = """
import json, os
import numpy as np
import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader, sources
x = np.ones((64, 3), np.float32)
model, criterion = nn.Linear(3, 1), nn.MSELoss()
optimizer = optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(ArrayDataset(x, x[:, :1]), batch_size=8)
"""
BEFORE = {  # page -> what its blocks, which are parts of programs, begin with
    "docs/faults.md": MODEL,
    "docs/text.md": MODEL + "open('book.txt', 'w').write('one two ' * 99)\nsources.load('book.txt', context=8)\n",
    "docs/training.md": MODEL + "os.mkdir('run1')\nnpdp.save_checkpoint('run1/000410.npz', model, optimizer, loader)\n",
}
ALTERNATIVES = "docs/parameter_server.md"  # of its lines a program has one
ONE_OF_TORCH = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}


def run(program, folder):
    environment = {**os.environ, **ONE_OF_TORCH, "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and name_of(page) != ALTERNATIVES]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_blocks_of_python_run(page, tmp_path):
    program = "\n".join([BEFORE.get(name_of(page), ""), *blocks(page, "python")])
    if "import torch\n" in program:
        pytest.importorskip("torch")
    run(program, tmp_path)


@pytest.mark.parametrize("line", blocks(ROOT / ALTERNATIVES, "python")[0].splitlines())
def test_each_way_to_wrap_a_model_is_taken(line):
    def program():
        names = {}
        exec(f"{MODEL}\n{line}", names)
        return type(names["model"]).__name__

    assert "DataParallel" in npdp.run_ranks(2, program)


def side(page, sign):
    """Return one of the two programs of a page's difference."""
    (difference,) = blocks(DOCS / page, "diff")
    return "\n".join(line[1:] for line in difference.splitlines() if line[:1] in ("", " ", sign))


@pytest.mark.parametrize("page", ["from_pytorch.md", "from_horovod.md"])
def test_a_changed_program_trains_on_three_ranks_as_on_one(page):
    def trained():
        names = {}
        exec(side(page, "+"), names)
        return names["model"].state_dict()["weight"]

    (one,) = npdp.run_ranks(1, trained)
    for weight in npdp.run_ranks(3, trained):
        np.testing.assert_allclose(weight, one, rtol=1e-4)
    np.testing.assert_allclose(one, np.ones((1, 10)), atol=0.05)


def test_the_program_before_its_change_is_one_of_pytorchs(tmp_path):
    pytest.importorskip("torch")
    run(side("from_pytorch.md", "-"), tmp_path)


def test_the_program_before_its_change_is_python():
    compile(side("from_horovod.md", "-"), "from_horovod.md", "exec")


PARSERS = {"train": config.parse, "bench": bench_flags.parse}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=name_of)
def test_lines_for_clusters_have_flags_that_exist(page, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")  # as under mpirun, which is not started
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    found = re.findall(r"npdp[. ](train|bench)\b(.*)", "\n".join(blocks(page, "bash")))
    for command, flags in found:
        PARSERS[command](shlex.split(flags, comments=True))
    assert found
